"""What networks cost by their widths, against networks of those widths."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_dynhp as dynhp
from keras_dynhp.pruning.resources import group_axes, macs, parameters

layers = keras.layers


def dense(first, second):
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(first, name="a"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(second, name="b"),
            layers.Dense(3, name="out"),
        ]
    )


def convolutional(first, second):
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(first, 3, padding="same", name="a")(inputs)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Conv2D(second, 2, name="b")(x)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(3, name="out")(x))


@pytest.mark.parametrize("make", [dense, convolutional])
@given(first=st.integers(2, 9), second=st.integers(2, 9))
@settings(max_examples=8, deadline=None)
def test_value_is_that_of_a_network_of_these_widths(make, first, second):
    groups = dynhp.find_groups(make(9, 9))
    assert [group.name for group in groups] == ["a", "b"]
    small = make(first, second)
    widths = np.array([first, second])
    assert parameters(groups).value(widths) == small.count_params()
    assert macs(groups).value(widths) == pytest.approx(dynhp.count_macs(small))


def test_cost_of_a_neuron_by_hand():
    groups = dynhp.find_groups(dense(5, 4))
    # Of "a": 6 weights in, a bias, 4 values of the normalization, 4 weights out. Of "b": 5 + 1 + 3.
    np.testing.assert_allclose(parameters(groups).per_neuron(np.array([5, 4])), [15, 9])
    np.testing.assert_allclose(macs(groups).per_neuron(np.array([5, 4])), [6 + 4, 5 + 3])


def test_axes_count_positions_of_neurons():
    model = convolutional(4, 5)
    groups = dynhp.find_groups(model)
    axes = group_axes(groups)[id(model.get_layer("out").kernel)]
    assert axes[0] == (0, {1: 4.0})  # 2 by 2 positions of each of the neurons of "b"
    assert axes[1] == (3, {})
