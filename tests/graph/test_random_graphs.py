"""Random architectures; every failure found on the way has a test of its own name."""

from __future__ import annotations

import random

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from keras import layers as L
from keras import ops

from benchmarks.exactness import check
from benchmarks.random_graphs import draw, examine


@pytest.fixture
def float64():
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


def one_graph(data):
    random.seed(0)
    model, _ = draw(lambda n: data.draw(st.integers(0, n - 1)), most=5)
    examine(model, data.draw(st.integers(0, 99)), data.draw(st.booleans()))


@pytest.mark.sweep("0")
@pytest.mark.parametrize("part", range(5))
def test_random_graphs(float64, part):
    rules = settings(
        max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    seed(part)(rules(given(data=st.data())(one_graph)))()


def test_grouped_query_attention_wants_a_value_as_wide_as_its_query():
    for number in range(4):
        inputs = keras.Input((3, 4))
        query, value = L.Dense(4)(inputs), L.Dense(4)(inputs)
        x = L.GroupQueryAttention(2, 4, 2)(query, value)
        model = keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))
        assert check(model, seed=number).error <= 1e-5


def test_value_width_of_one_meets_a_mistake_of_keras():
    """keras.ops.add takes a bias of shape (heads, 1) for one along time (Keras 3.15)."""
    for number in range(6):
        inputs = keras.Input((2, 7))
        x = L.MultiHeadAttention(3, 3, value_dim=2)(inputs, inputs)
        assert check(keras.Model(inputs, L.Dense(2)(L.Flatten()(x))), seed=number).error <= 1e-5


def test_the_mistake_of_keras_is_still_there():
    """If this fails, `_mind_keras_add` and `_bias_allows` are no longer needed."""
    x, bias = np.zeros((3, 2, 2, 1), "float32"), np.array([[1.0], [2.0]], "float32")
    assert not np.array_equal(ops.add(x, bias), x + bias)


@pytest.mark.parametrize("axes", ["d", "e", "de", "bd"])
def test_einsum_dense_biases_on_other_axes(axes):
    for number in range(4):
        inputs = keras.Input((4, 6))
        layer = L.EinsumDense("abc,cde->abde", (4, 4, 3), bias_axes=axes)
        model = keras.Model(inputs, L.Dense(2)(L.Flatten()(layer(L.Dense(6)(inputs)))))
        assert check(model, seed=number).error <= 1e-5


def test_masks_of_parts_do_not_take_the_name_of_a_layer():
    """Group `stem#2` and layer `stem_2` both asked for the mask `mask_stem_2`."""
    inputs = keras.Input((5,))
    one, other = ops.split(L.Dense(8, name="stem")(inputs), 2, axis=-1)
    x = ops.concatenate([other, one, L.Dense(4, name="stem_2")(inputs)], axis=-1)
    assert check(keras.Model(inputs, L.Dense(2)(x))).error <= 1e-5


def test_squeezing_keeps_an_axis_of_which_one_channel_is_left():
    """squeeze() without an axis would take the channels' axis, too, once it has length 1."""
    inputs = keras.Input(batch_shape=(2, 1, 1, 4))
    x = ops.squeeze(L.Conv2D(3, 1, name="thin")(inputs))
    model = keras.Model(inputs, L.Dense(2)(x))
    assert check(model, share=0.99).error <= 1e-5


def test_a_sum_over_tensors_with_channels_on_different_axes():
    """One operand's channels lie where the other has positions: neither may lose any."""
    inputs = keras.Input((4, 4))
    x = L.Dense(4, name="last")(inputs)
    y = L.Permute((2, 1))(L.Dense(4, name="first")(inputs))
    found = check(keras.Model(inputs, L.Dense(2)(L.Flatten()(L.Add()([x, y])))))
    assert found.error <= 1e-5


def test_grouped_convolutions_over_masked_input_features():
    """With masks in front, the features looked like neurons, and whole groups were to go."""
    inputs = keras.Input((6, 6, 3))
    x = L.DepthwiseConv2D(3, depth_multiplier=2)(inputs)
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(L.Conv2D(2, 3, groups=2)(x))))
    found = check(model, prune_inputs=True)
    assert found.groups.groups[0].size == 3
    assert found.error <= 1e-5


def test_a_tensor_that_is_query_and_value_is_selected_once():
    inputs = keras.Input((5, 8))
    x = L.Attention()([inputs, inputs, L.Dense(8)(inputs)])
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))
    assert check(model, prune_inputs=True).error <= 1e-5


@pytest.mark.parametrize("first", ["features", "steps"])
def test_input_features_read_along_two_axes(first):
    """Each reader selects along its own axis (seed 1920).

    The tensor had one selection, along the axis of whoever read it first; with masks in between
    the order was another one, and `rebuild` refused the masks that `add_masks` had made.
    """
    inputs = keras.Input((4, 7))
    x = inputs * 2.0
    readers = {
        "features": L.Dense(3, name="features"),
        "steps": L.EinsumDense("abc,bd->adc", (5, 7), name="steps"),
    }
    order = [first, *(name for name in readers if name != first)]
    outputs = [L.Dense(2)(L.Flatten()(readers[name](x))) for name in order]
    found = check(keras.Model(inputs, outputs), prune_inputs=True)
    assert {(group.size, *group.readers) for group in found.groups} >= {
        (7, "features"),
        (4, "steps"),
    }
    assert found.copy_error <= 1e-5
    assert found.error <= 1e-5
    selections = [op.name for op in found.small.operations if "_selected" in op.name]
    assert len(set(selections)) == 2


def test_masks_made_without_input_features_are_obeyed_without_them():
    """Seeds 3058 and 3169: rebuild made neurons of input features, which kept others."""
    inputs = keras.Input((5, 4))
    x = L.AdditiveAttention()([inputs, inputs])
    x = L.Permute((2, 1))(L.EinsumDense("abc,bd->adc", (3, 4), name="stem")(x))
    outputs = [L.Dense(2)(L.Flatten()(x)), L.Flatten()(L.AdditiveAttention()([inputs, inputs]))]
    found = check(keras.Model(inputs, outputs))
    assert "stem" in {group.name for group in found.groups}
    assert found.error <= 1e-5
    assert found.small.count_params() < found.masked.count_params()


def test_neurons_that_nothing_reads_can_be_masked():
    """Seeds 2483, 3383 and 3840: a group without readers had no mask, so it never went."""
    inputs = keras.Input((7,))
    x = L.Dense(7, name="stem")(inputs)
    found = check(keras.Model(inputs, ops.take(x, [5, 1, 3, 0], axis=-1)))
    (group,) = found.groups
    assert (group.size, group.readers) == (3, [])
    assert found.masked.get_layer("mask_stem_2").neurons == 3  # of stem#2
    assert found.error <= 1e-5
    assert found.small.get_layer("stem").units < 7
