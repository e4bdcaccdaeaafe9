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
