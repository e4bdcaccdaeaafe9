"""NeuronMask by itself."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_dynhp import NeuronMask


def test_multiplies_along_the_last_axis():
    layer = NeuronMask(3)
    layer.mask.assign([1.0, 0.0, 1.0])
    np.testing.assert_array_equal(layer(np.ones((2, 4, 3)))[0, 0], [1, 0, 1])


def test_another_axis_and_an_index():
    layer = NeuronMask(2)
    layer.mask.assign([0.0, 1.0])
    out = np.asarray(layer(np.ones((1, 4, 2)), axis=1, index=[1, 0, -1, 0]))
    np.testing.assert_array_equal(out[0, :, 0], [1, 0, 1, 0])


def test_its_weight_is_not_trained():
    layer = NeuronMask(3)
    assert layer.mask.shape == (3,)
    assert layer.trainable_weights == [] and len(layer.weights) == 1


@pytest.mark.parametrize("neurons", [0, -1, 2.0, "3", True, None])
def test_bad_numbers_of_neurons(neurons):
    with pytest.raises(ValueError, match="must be a positive integer"):
        NeuronMask(neurons)


@pytest.mark.parametrize(
    ("shape", "where"),
    [
        ((2, 3), {}),
        ((2, 4), {"axis": 2}),
        ((2, 4, 3), {"axis": 1, "index": [0, 1]}),
        ((2, 2), {"index": [0, 4]}),
    ],
)
def test_tensors_that_do_not_hold_its_neurons(shape, where):
    layer = NeuronMask(4, name="four")
    for tensor in (np.ones(shape, "float32"), keras.Input(shape[1:])):
        with pytest.raises(ValueError, match="'four' holds 4 neurons"):
            layer(tensor, **where)


def test_configuration():
    layer = NeuronMask.from_config(NeuronMask(5, name="m").get_config())
    assert (layer.neurons, layer.name) == (5, "m")


def test_keeps_steps_masked_and_dtypes():
    steps = keras.layers.Embedding(5, 4, mask_zero=True)(np.array([[1, 0]]))
    np.testing.assert_array_equal(NeuronMask(4)(steps)._keras_mask, [[True, False]])
    out = NeuronMask(4, dtype="mixed_float16")(steps)
    assert out.dtype == "float16"
    # Keras 3.12 loses the mask of what it casts, whatever the layer.
    plain = keras.layers.ReLU(dtype="mixed_float16")(steps)
    assert hasattr(out, "_keras_mask") == hasattr(plain, "_keras_mask")
    if hasattr(plain, "_keras_mask"):
        np.testing.assert_array_equal(out._keras_mask, [[True, False]])
