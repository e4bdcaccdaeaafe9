"""What can't be masked or rebuilt raises, says why, and leaves every model as it was."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_dynhp as dynhp
from keras_dynhp.graph.trace import trace_model
from keras_dynhp.rebuild.plan import plan_rebuild


def model_of(*layers):
    return keras.Sequential([keras.Input((6,)), *layers])


def weights_of(model):
    return [np.array(v) for v in model.weights]


@pytest.fixture
def masked():
    return dynhp.add_masks(model_of(L.Dense(5, name="a"), L.Dense(4, name="b"), L.Dense(2)))


def test_a_mask_that_empties_a_group(masked):
    masked.get_layer("mask_a").mask.assign(np.zeros(5))
    before = weights_of(masked)
    with pytest.raises(ValueError, match="'mask_a' removes all of its 5 neurons"):
        dynhp.rebuild(masked)
    for one, other in zip(before, weights_of(masked)):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("value", [0.5, -1.0, np.nan])
def test_a_mask_of_other_values(masked, value):
    masked.get_layer("mask_a").mask.assign([1, 1, 1, 0, value])
    with pytest.raises(ValueError, match=r"'mask_a' must hold 0.0 and 1.0 only"):
        dynhp.rebuild(masked)


def test_a_mask_on_the_output_of_the_model():
    mask = dynhp.NeuronMask(4)
    model = model_of(L.Dense(5), L.Dense(4), mask)
    mask.mask.assign([1, 1, 0, 1])
    with pytest.raises(ValueError, match="zeroes neurons that can't be removed"):
        dynhp.rebuild(model)


def test_a_mask_behind_a_barrier():
    """Softmax can't be followed, so masking what comes out of it can't become removing."""
    mask = dynhp.NeuronMask(5)
    model = model_of(L.Dense(5), L.Softmax(), mask, L.Dense(2))
    mask.mask.assign([1, 1, 0, 1, 1])
    with pytest.raises(ValueError, match="zeroes neurons that can't be removed"):
        dynhp.rebuild(model)


def test_a_mask_in_front_of_only_one_reader():
    inputs = keras.Input((6,))
    mask = dynhp.NeuronMask(5)
    x = L.Dense(5)(inputs)
    model = keras.Model(inputs, L.Add()([L.Dense(2)(mask(x)), L.Dense(2)(x)]))
    mask.mask.assign([1, 1, 0, 1, 1])
    with pytest.raises(ValueError, match="also read without a mask"):
        dynhp.rebuild(model)


def test_a_mask_of_another_length_than_its_tensor():
    with pytest.raises(Exception, match="neurons"):
        dynhp.rebuild(model_of(L.Dense(5), dynhp.NeuronMask(4), L.Dense(2)))


@pytest.mark.parametrize("length", [4, 6, 1])
def test_survivors_of_the_wrong_length(length):
    groups = dynhp.find_groups(model_of(L.Dense(5, name="a"), L.Dense(2)))
    with pytest.raises(ValueError, match=r"must have shape \(5,\)"):
        groups.survivors({"a": np.ones(length)})


def test_survivors_of_none():
    groups = dynhp.find_groups(model_of(L.Dense(5, name="a"), L.Dense(2)))
    with pytest.raises(ValueError, match="all of its 5 neurons"):
        groups.survivors({"a": np.zeros(5)})


def test_survivors_of_an_unknown_group():
    groups = dynhp.find_groups(model_of(L.Dense(5, name="a"), L.Dense(2)))
    with pytest.raises(KeyError, match="No prunable group 'z'"):
        groups.survivors({"z": np.ones(5)})


def test_a_plan_changes_nothing():
    model = model_of(L.Dense(5, name="a"), L.Dense(2))
    before = weights_of(model)
    groups = dynhp.find_groups(model)
    plan = plan_rebuild(groups, groups.survivors({"a": [1, 0, 1, 0, 0]}))
    assert plan.shape_of(model.layers[0].kernel) == (6, 2)
    assert plan.shape_of(model.layers[1].kernel) == (2, 2)
    assert model.layers[0].kernel.shape == (6, 5)
    for one, other in zip(before, weights_of(model)):
        np.testing.assert_array_equal(one, other)


def test_a_model_that_shares_a_layer_with_another_stays_as_it_is():
    shared = L.Dense(5, name="shared")
    one = model_of(shared, L.Dense(2))
    other = model_of(shared, L.Dense(3))
    before = weights_of(other)
    masked = dynhp.add_masks(one)
    masked.get_layer("mask_shared").mask.assign([1, 0, 0, 0, 1])
    small = dynhp.rebuild(masked)
    assert small.get_layer("shared").units == 2
    assert shared.units == 5 and other.layers[0] is shared and one.layers[0] is shared
    for a, b in zip(before, weights_of(other)):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("function", [dynhp.find_groups, dynhp.add_masks, dynhp.rebuild])
def test_what_is_no_model(function):
    with pytest.raises(TypeError, match=r"must be a keras.Model"):
        function(L.Dense(3))


@pytest.mark.parametrize("function", [dynhp.find_groups, dynhp.add_masks, dynhp.rebuild])
def test_a_subclassed_model(function):
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match="subclassed"):
        function(Own())


def test_a_sequential_that_is_not_built():
    with pytest.raises(ValueError, match="not built"):
        dynhp.find_groups(keras.Sequential([L.Dense(3)]))


def test_layers_that_differ_from_their_configuration():
    @keras.saving.register_keras_serializable("tests")
    class Forgetful(L.Dense):
        def __init__(self, units, **kwargs):
            super().__init__(units, **kwargs)

        def get_config(self):
            return {**super().get_config(), "use_bias": False}

    model = model_of(Forgetful(5, name="forgetful"), L.Dense(2))
    with pytest.raises(ValueError, match="'forgetful'"):
        dynhp.add_masks(model)


def test_tracing_leaves_no_trace():
    model = model_of(L.Dense(5), L.Dense(2))
    config, nodes = model.get_config(), [len(layer._inbound_nodes) for layer in model.layers]
    trace_model(model)
    dynhp.add_masks(model)
    assert model.get_config() == config
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes
