"""Estimates of flash and arena against the real converter and the real TensorFlow Lite Micro."""

import keras
import networks
import pytest
from keras import layers

from keras_dynhp.costs.arena import estimate_arena, peak_tensors
from keras_dynhp.costs.flash import BYTES_PER_BIAS, BYTES_PER_WEIGHT, estimate_flash

# Widths of a half have a quarter of the weights, of 0.3 a tenth.
CASES = [(name, scale) for name in networks.NETWORKS for scale in (1.0, 0.5, 0.3)]
some_in_suite = pytest.mark.sweep(r"-(1|0\.3)")


@some_in_suite
@pytest.mark.parametrize(("name", "scale"), CASES)
def test_flash_within_3_percent(name, scale, measured):
    model, path, _ = measured(name, scale)
    assert estimate_flash(model) == pytest.approx(path.stat().st_size, rel=0.03)


@some_in_suite
@pytest.mark.parametrize(("name", "scale"), CASES)
def test_arena_within_10_percent(name, scale, measured):
    model, _, arena = measured(name, scale)
    assert estimate_arena(model) == pytest.approx(arena, rel=0.10)


@pytest.mark.parametrize("quantize", [None, "int16x8"])
def test_other_number_types(quantize, real):
    from keras_dynhp.export import tflm

    model = networks.lenet_5(0.3)
    path = real(model, quantize)
    assert estimate_flash(model, quantize) == pytest.approx(path.stat().st_size, rel=0.03)
    arena = tflm.measure_arena(str(path))
    assert estimate_arena(model, quantize) == pytest.approx(arena, rel=0.10)


def test_one_more_unit_costs_what_is_said():
    def net(units):
        return keras.Sequential([keras.Input((512,)), layers.Dense(units), layers.Dense(512)])

    # 16 units more: 16 rows of 512 in, 16 columns of 512 out, 16 biases; alignment may add 16.
    expected = 2 * 16 * 512 * BYTES_PER_WEIGHT["int8"] + 16 * BYTES_PER_BIAS["int8"]
    assert abs(estimate_flash(net(80)) - estimate_flash(net(64)) - expected) <= 16


def test_the_peak_names_what_is_alive():
    model = networks.resnet_8()
    peak = peak_tensors(model)
    # A residual block at full resolution: the trunk, and what its second convolution reads and
    # makes, 32 x 32 x 16 bytes each.
    assert [size for _, size in peak.tensors] == [16384] * 3
    first_three = [layer.name for layer in model.layers if layer.name.startswith("conv2d")][:3]
    assert sorted(name for name, _ in peak.tensors) == sorted(first_three)
    assert peak.operator == first_three[2]
    assert peak.bytes == 3 * 16384
    assert peak_tensors(model, None).bytes == 4 * peak.bytes


def test_the_peak_falls_where_its_tensors_do():
    def net(first, second):
        return keras.Sequential(
            [
                keras.Input((16, 16, 1)),
                layers.Conv2D(first, 3, padding="same", name="first"),
                layers.Conv2D(8, 3, strides=4, name="strided"),
                layers.Conv2D(second, 1, name="second"),
            ]
        )

    assert peak_tensors(net(16, 8)).tensors[0][0] == "first"
    assert estimate_arena(net(8, 8)) < estimate_arena(net(16, 8)) - 1500
    # What is not at the peak costs only its own bookkeeping.
    assert estimate_arena(net(16, 8)) - estimate_arena(net(16, 4)) <= 64


def test_errors():
    with pytest.raises(ValueError, match="int4"):
        estimate_flash(networks.lenet_5(0.1), "int4")
    with pytest.raises(ValueError, match="int4"):
        estimate_arena(networks.lenet_5(0.1), "int4")
    with pytest.raises(ValueError, match="unbuilt"):
        estimate_flash(keras.Sequential([layers.Dense(3)]))
    with pytest.raises(ValueError, match="unknown length"):
        estimate_arena(keras.Sequential([keras.Input((None, 3)), layers.Dense(2)]))
