"""Depth: residual branches that lost everything go as a whole, exactly or not at all."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_dynhp as dynhp
from benchmarks.exactness import difference, outputs_of, random_inputs, randomize
from keras_dynhp.rebuild.masked import smaller_copy
from keras_dynhp.rebuild.plan import plan_rebuild


def branch(x, name, bias, norm, kernel=3):
    y = L.Conv2D(6, kernel, padding="same", use_bias=bias, name=f"{name}_inner")(x)
    y = L.ReLU()(L.BatchNormalization()(y) if norm else y)
    y = L.Conv2D(4, kernel, padding="same", use_bias=bias, name=f"{name}_outer")(y)
    return L.BatchNormalization()(y) if norm else y


def resnet(bias=True, norm=True, merge=None):
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, name="stem")(inputs)
    for name in ("one", "two"):
        y = branch(x, name, bias, norm)
        x = L.ReLU()(x + y if merge is None else merge()([x, y]))
    model = keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)))
    randomize(model, 0, random_inputs(model))
    return model


def masked_without(model, *groups):
    masked = dynhp.add_masks(model)
    for group in groups:
        mask = masked.get_layer(f"mask_{group}").mask
        mask.assign(np.zeros(mask.shape))
    return masked


@pytest.mark.parametrize("merge", [L.Add, None])
@pytest.mark.parametrize(("bias", "norm"), [(True, True), (True, False), (False, True)])
def test_the_block_becomes_its_shortcut_and_a_constant(bias, norm, merge):
    model = resnet(bias, norm, merge)
    masked = masked_without(model, "one_inner")
    masked.get_layer("mask_stem").mask.assign([1, 0, 1, 1])
    small = dynhp.rebuild(masked, allow_layer_removal=True)
    names = {layer.name for layer in small.layers}
    assert not names & {"one_inner", "one_outer"}
    assert {"two_inner", "two_outer"} <= names
    data = random_inputs(model)
    assert difference(outputs_of(masked, data), outputs_of(small, data)) <= 1e-5


def test_without_biases_nothing_is_left_behind():
    model = resnet(bias=False, norm=False)
    small = dynhp.rebuild(masked_without(model, "one_inner", "two_inner"), allow_layer_removal=True)
    kinds = [type(operation).__name__ for operation in small.operations]
    assert kinds == ["InputLayer", "Conv2D", "ReLU", "ReLU", "GlobalAveragePooling2D", "Dense"]


def test_off_by_default():
    with pytest.raises(ValueError, match="removes all of its 6 neurons"):
        dynhp.rebuild(masked_without(resnet(), "one_inner"))


def test_a_group_on_the_only_way_to_the_output():
    with pytest.raises(ValueError, match="Nothing of the data would reach the output"):
        dynhp.rebuild(masked_without(resnet(), "stem"), allow_layer_removal=True)


def test_a_branch_that_is_multiplied_is_refused():
    with pytest.raises(ValueError, match="a Multiply is no sum"):
        dynhp.rebuild(
            masked_without(resnet(merge=L.Multiply), "one_inner"), allow_layer_removal=True
        )


def test_a_constant_that_varies_over_positions_is_refused():
    """A second convolution sees the first one's bias inside, and zeros beyond the border."""
    inputs = keras.Input((8, 8, 4))
    x = L.Conv2D(4, 1, name="stem")(inputs)
    y = L.Conv2D(6, 1, name="inner")(x)
    y = L.Conv2D(5, 1, name="middle")(y)
    y = L.Conv2D(4, 3, padding="same", name="outer")(y)
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(L.Add()([x, y]))))
    randomize(model)
    with pytest.raises(ValueError, match="not the same at every position"):
        dynhp.rebuild(masked_without(model, "inner"), allow_layer_removal=True)


def transformer(bias=True, unknown=False):
    inputs = keras.Input((None if unknown else 5, 8))
    x = L.Dense(8, name="embed")(inputs)
    x = x + L.MultiHeadAttention(2, 4, use_bias=bias, name="attend")(x, x)
    x = x + L.Dense(8, name="down")(L.Dense(16, activation="gelu", name="up")(x))
    model = keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling1D()(x)))
    randomize(model)
    return model


@pytest.mark.parametrize("bias", [True, False])
def test_attention_without_heads_goes(bias):
    """Heads are read inside their layer, so what is in front of it stays alive."""
    model = transformer(bias)
    masked = masked_without(model, "up")
    for mask in masked.get_layer("attend").masks:
        mask.mask.assign(np.zeros(mask.neurons) if "heads" in mask.name else mask.mask)
    small = dynhp.rebuild(masked, allow_layer_removal=True)
    assert not {layer.name for layer in small.layers} & {"attend", "up", "down"}
    data = random_inputs(model)
    assert difference(outputs_of(masked, data), outputs_of(small, data)) <= 1e-5
    groups = dynhp.find_groups(model)
    none = {"attend:heads": np.zeros(2), "up": np.zeros(16)}
    plan = plan_rebuild(groups, groups.survivors(none, allow_empty=True))
    assert {"attend", "up", "down"} <= set(plan.removals.layers)
    assert difference(outputs_of(masked, data), outputs_of(smaller_copy(plan), data)) <= 1e-5


def test_attention_over_unknown_lengths_is_refused():
    groups = dynhp.find_groups(transformer(unknown=True))
    survivors = groups.survivors({"attend:heads": np.zeros(2)}, allow_empty=True)
    with pytest.raises(ValueError, match="unknown dimensions"):
        plan_rebuild(groups, survivors)


def test_a_layer_that_passes_on_its_input_too_is_refused():
    """A layer may return more than what it reads inside itself, whatever its rule says."""

    @keras.saving.register_keras_serializable("tests")
    class Shortcut(L.Layer):
        def __init__(self, inner, **kwargs):
            super().__init__(**kwargs)
            self.inner = inner

        def build(self, shape):
            self.one = self.add_weight(shape=(shape[-1], self.inner), name="one")
            self.two = self.add_weight(shape=(self.inner, shape[-1]), name="two")

        def call(self, x):
            return x + keras.ops.relu(x @ self.one) @ self.two

        def get_config(self):
            return {**super().get_config(), "inner": self.inner}

    @dynhp.register_rule(Shortcut)
    def shortcut(call):
        inner = call.produce(call.layer.inner, "inner")
        call.label(call.layer.one, (call.read(0), "in"), (inner, "out"))
        call.label(call.layer.two, (inner, "inside"), (call.inputs[0].ravel(), "out"))
        call.resize("inner", inner)
        return call.inputs[0]

    model = keras.Sequential([keras.Input((6,)), L.Dense(5), Shortcut(4, name="own"), L.Dense(2)])
    groups = dynhp.find_groups(model)
    survivors = groups.survivors({"own:inner": np.zeros(4)}, allow_empty=True)
    with pytest.raises(ValueError, match="the data still reach"):
        plan_rebuild(groups, survivors)


def test_from_a_plan():
    """What DynHP does: survivors, plan, smaller copy; the plan names what goes."""
    model = resnet()
    groups = dynhp.find_groups(model)
    survivors = groups.survivors({"one_inner": np.zeros(6)}, allow_empty=True)
    plan = plan_rebuild(groups, survivors)
    assert {"one_inner", "one_outer"} <= set(plan.removals.layers)
    small = smaller_copy(plan)
    data = random_inputs(model)
    masked = masked_without(model, "one_inner")
    assert difference(outputs_of(masked, data), outputs_of(small, data)) <= 1e-5


def test_saved_and_loaded(tmp_path):
    small = dynhp.rebuild(masked_without(resnet(), "one_inner"), allow_layer_removal=True)
    small.save(tmp_path / "small.keras")
    again = keras.models.load_model(tmp_path / "small.keras")
    data = random_inputs(small)
    assert difference(outputs_of(small, data), outputs_of(again, data)) == 0.0
