"""add_masks and rebuild: the rebuilt model computes what the masked model computes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_dynhp as dynhp
from benchmarks.exactness import (
    calibrate,
    check,
    difference,
    outputs_of,
    random_inputs,
    random_masks,
    randomize,
)
from keras_dynhp.rebuild.masked import smaller_copy
from keras_dynhp.rebuild.plan import plan_rebuild

ROUNDING = 1e-5


def mlp(**kwargs):
    return keras.Sequential(
        [
            keras.Input((12,)),
            L.Dense(9, activation="relu", name="a", **kwargs),
            L.Dense(7, activation="relu", name="b"),
            L.Dense(3, name="c"),
        ]
    )


def resnet():
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(6, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = L.ReLU()(L.BatchNormalization()(x))
    y = L.Conv2D(5, 3, padding="same", name="inner")(x)
    y = L.ReLU()(L.BatchNormalization()(y))
    y = L.BatchNormalization()(L.Conv2D(6, 3, padding="same", name="outer")(y))
    x = L.ReLU()(L.Add()([x, y]))
    x = L.DepthwiseConv2D(3, depth_multiplier=2, name="deep")(x)
    x = L.Flatten()(L.MaxPooling2D()(x))
    return keras.Model(inputs, L.Dense(4, activation="softmax", name="end")(x))


def test_masks_of_ones_change_nothing():
    model = resnet()
    randomize(model)
    data = random_inputs(model)
    masked = dynhp.add_masks(model)
    assert difference(outputs_of(model, data), outputs_of(masked, data)) == 0.0
    assert not {id(v) for v in model.weights} & {id(v) for v in masked.weights}


def test_one_mask_for_a_group_wherever_it_is_read():
    masked = dynhp.add_masks(resnet())
    masks = [layer for layer in masked.layers if isinstance(layer, dynhp.NeuronMask)]
    assert sorted(layer.name for layer in masks) == ["mask_inner", "mask_stem"]
    # The trunk is read by the inner convolution and by the dense layer.
    assert len(masked.get_layer("mask_stem")._inbound_nodes) == 2


def test_rebuilt_shapes():
    model = resnet()
    masked = dynhp.add_masks(model)
    masked.get_layer("mask_stem").mask.assign([1, 0, 1, 1, 0, 0])
    masked.get_layer("mask_inner").mask.assign([0, 0, 0, 1, 1])
    small = dynhp.rebuild(masked)
    shapes = {v.path: tuple(v.shape) for v in small.weights}
    assert shapes["stem/kernel"] == (3, 3, 3, 3)
    assert shapes["inner/kernel"] == (3, 3, 3, 2)
    assert shapes["outer/kernel"] == (3, 3, 2, 3)
    assert shapes["deep/kernel"] == (3, 3, 3, 2)
    assert shapes["end/kernel"] == (3 * 3 * 3 * 2, 4)
    assert small.get_layer("stem").filters == 3
    assert not any(isinstance(layer, dynhp.NeuronMask) for layer in small.layers)
    kept = [0, 2, 3]
    np.testing.assert_array_equal(
        small.get_layer("stem").kernel, np.asarray(masked.get_layer("stem").kernel)[..., kept]
    )


@pytest.mark.parametrize("make", [mlp, resnet])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_exact(make, seed):
    found = check(make(), seed=seed)
    assert found.copy_error <= ROUNDING
    assert found.error <= ROUNDING


def test_a_sequential_stays_one():
    groups = dynhp.find_groups(mlp())
    small = smaller_copy(plan_rebuild(groups, groups.survivors({"a": np.eye(9)[0]})))
    assert isinstance(small, keras.Sequential)
    assert [layer.units for layer in small.layers] == [1, 7, 3]


@pytest.mark.parametrize("functional", [True, False])
def test_input_features(functional):
    model = mlp()
    if functional:
        inputs = keras.Input((12,))
        model = keras.Model(inputs, model.layers[2](model.layers[1](model.layers[0](inputs))))
    found = check(model, prune_inputs=True)
    assert found.error <= ROUNDING
    assert found.small.input_shape == (None, 12)  # callers still give every feature
    kept = int(found.masked.layers[1].mask.numpy().sum())
    assert found.small.get_layer("a").kernel.shape[0] == kept < 12


@pytest.mark.parametrize("functional", [True, False])
def test_input_features_again_use_the_same_gather(functional):
    """Rebuilding a model that begins with a selection narrows the selection."""
    model = mlp()
    if functional:
        inputs = keras.Input((12,))
        model = keras.Model(inputs, model.layers[2](model.layers[1](model.layers[0](inputs))))
    counts = []
    for seed in range(3):
        found = check(model, prune_inputs=True, seed=seed, share=0.3)
        assert found.error <= ROUNDING
        model = found.small
        counts.append(len(model.layers) if not functional else len(model.operations))
    assert counts[0] == counts[1] == counts[2]
    assert model.input_shape == (None, 12)
    assert model.get_layer("a").kernel.shape[0] < 9


def test_features_that_two_branches_read():
    inputs = keras.Input((10,))
    x = L.Dense(4, activation="relu")(inputs)
    y = L.Dense(5, activation="relu")(inputs * 2.0)
    model = keras.Model(inputs, L.Dense(2)(L.Concatenate()([x, y])))
    assert check(model, prune_inputs=True).error <= ROUNDING


def test_nested_models():
    inside = keras.Input((6, 6, 4))
    block = keras.Model(inside, L.Conv2D(4, 3, padding="same", activation="relu")(inside))
    inputs = keras.Input((6, 6, 3))
    x = L.Conv2D(4, 1)(inputs)
    x = L.Add()([x, block(x)])
    head = keras.Sequential([keras.Input((6, 6, 4)), L.Flatten(), L.Dense(5), L.Dense(2)])
    found = check(keras.Model(inputs, head(x)))
    assert found.error <= ROUNDING
    assert found.groups.prunable_share > 0.9
    assert found.small.layers[-1].name == head.name


def test_a_model_called_twice():
    inside = keras.Input((5,))
    block = keras.Model(inside, L.Dense(5, activation="tanh")(L.Dense(6)(inside)))
    one, other = keras.Input((3,)), keras.Input((4,))
    x, y = L.Dense(5)(one), L.Dense(5)(other)
    model = keras.Model([one, other], L.Dense(2)(L.Concatenate()([block(x), block(y)])))
    found = check(model)
    assert found.error <= ROUNDING
    assert found.small.count_params() < model.count_params()


def test_a_shared_layer():
    inputs = keras.Input((6,))
    shared = L.Dense(6, activation="relu", name="shared")
    model = keras.Model(inputs, L.Dense(2)(shared(shared(L.Dense(6, name="first")(inputs)))))
    found = check(model)
    assert found.error <= ROUNDING
    assert {"first", "shared"} <= set(found.groups[0].layers)
    small = found.small
    assert len(small.get_layer("shared")._inbound_nodes) == 2


def test_several_inputs_and_outputs_keep_their_structure():
    a, b = keras.Input((4,), name="a"), keras.Input((5,), name="b")
    x = L.Add()([L.Dense(6)(a), L.Dense(6)(b)])
    outputs = {"one": L.Dense(2, name="one")(x), "two": L.Dense(3, name="two")(x)}
    model = keras.Model({"a": a, "b": b}, outputs)
    masked = dynhp.add_masks(model)
    random_masks(masked)
    small = dynhp.rebuild(masked)
    data = {"a": np.ones((2, 4), "float32"), "b": np.ones((2, 5), "float32")}
    assert set(small(data)) == {"one", "two"}
    for name in ("one", "two"):
        np.testing.assert_allclose(small(data)[name], masked(data)[name], atol=1e-5)


@pytest.mark.parametrize("kind", ["ids", "values"])
def test_a_sequential_model_whose_layers_skip_time_steps(kind):
    """Keras puts the operations that make the mask into the graph, though not into the list."""
    if kind == "ids":
        begins = [keras.Input((7,), dtype="int32"), L.Embedding(20, 6, mask_zero=True)]
        data = np.array([[3, 1, 0, 2, 0, 0, 0], [4, 0, 5, 1, 1, 0, 0]], "int32")
    else:
        begins = [keras.Input((7, 3)), L.Masking(0.0), L.Dense(6)]
        data = np.random.default_rng(0).normal(size=(2, 7, 3)).astype("float32")
        data[:, 4:] = 0.0
    rest = [L.Bidirectional(L.LSTM(5, return_sequences=True)), L.GRU(4), L.Dense(2)]
    model = keras.Sequential([*begins, *rest])
    assert check(model, inputs=data).error <= ROUNDING
    small = []
    for same in (model, keras.Model(model.inputs, model.outputs)):
        groups = dynhp.find_groups(same)
        keep = {group.name: np.arange(group.size) % 2 == 0 for group in groups}
        small.append(smaller_copy(plan_rebuild(groups, groups.survivors(keep))))
    assert type(small[0]) is keras.Sequential
    assert small[0].count_params() < model.count_params()
    assert difference(*(outputs_of(each, data) for each in small)) <= ROUNDING


def test_frozen_layers_stay_frozen():
    model = resnet()
    model.get_layer("inner").trainable = False
    small = check(model).small
    assert not small.get_layer("inner").trainable
    assert small.get_layer("outer").trainable
    assert len(small.trainable_weights) == len(model.trainable_weights)


def test_a_frozen_model_inside():
    inside = keras.Input((6,))
    block = keras.Model(inside, L.Dense(4, name="x")(L.Dense(5, name="y")(inside)), name="block")
    block.trainable = False
    block.get_layer("x").trainable = True
    inputs = keras.Input((6,))
    model = keras.Model(inputs, L.Dense(2)(block(L.Dense(6)(inputs))))
    small = check(model).small
    assert not small.get_layer("block").get_layer("y").trainable
    assert len(small.trainable_weights) == len(model.trainable_weights)


def test_mixed_precision_and_dtype_policies():
    model = mlp(dtype="mixed_float16")
    found = check(model)
    assert found.error <= 1e-2
    assert found.small.get_layer("a").dtype_policy.name == "mixed_float16"
    assert found.small.get_layer("b").dtype_policy.name == "float32"


def test_regularizers_constraints_initializers_stay():
    model = mlp(kernel_regularizer="l2", kernel_constraint="max_norm", kernel_initializer="ones")
    layer = check(model).small.get_layer("a")
    assert isinstance(layer.kernel_regularizer, keras.regularizers.L2)
    assert isinstance(layer.kernel_constraint, keras.constraints.MaxNorm)
    assert isinstance(layer.kernel_initializer, keras.initializers.Ones)


def test_saved_and_loaded(tmp_path):
    found = check(resnet())
    data = random_inputs(found.small)
    for name, model in (("masked", found.masked), ("small", found.small)):
        model.save(tmp_path / f"{name}.keras")
        again = keras.models.load_model(tmp_path / f"{name}.keras")
        assert difference(outputs_of(model, data), outputs_of(again, data)) == 0.0
    again = keras.models.load_model(tmp_path / "masked.keras")
    assert dynhp.rebuild(again).count_params() == found.small.count_params()


def test_masks_can_be_trained_around():
    """A masked model fits; its masked neurons get no gradient through their readers."""
    masked = dynhp.add_masks(mlp())
    masked.get_layer("mask_a").mask.assign(np.eye(9)[0])
    masked.compile("sgd", "mse")
    before = np.array(masked.get_layer("a").kernel)
    masked.fit(np.ones((8, 12)), np.ones((8, 3)), verbose=0)
    after = np.array(masked.get_layer("a").kernel)
    np.testing.assert_array_equal(before[:, 1:], after[:, 1:])


def test_masks_by_hand():
    inputs = keras.Input((5,))
    mask = dynhp.NeuronMask(8)
    x = mask(L.Dense(8, name="hidden")(inputs))
    model = keras.Model(inputs, L.Dense(2)(L.ReLU()(x)))
    mask.mask.assign([1, 0] * 4)
    small = dynhp.rebuild(model)
    assert small.get_layer("hidden").units == 4
    data = random_inputs(model)
    assert difference(outputs_of(model, data), outputs_of(small, data)) <= ROUNDING


def test_calibration_makes_statistics_matter():
    """The checks would miss wrong statistics if all were zeros and ones."""
    model = resnet()
    calibrate(model, random_inputs(model))
    variances = [v for v in model.weights if v.path.endswith("moving_variance")]
    assert all(np.ptp(np.asarray(v)) > 0 for v in variances)


def test_where_a_neuron_lies_is_one_argument():
    """Keras looks at every number of a list: masking DenseNet201 took minutes."""
    inputs = keras.Input((6,))
    x = L.Concatenate()([L.Dense(8)(inputs) for _ in range(3)])
    masked = dynhp.add_masks(keras.Model(inputs, L.Dense(2)(x)))
    masks = [op for op in masked.operations if isinstance(op, dynhp.NeuronMask)]
    assert len(masks) == 3
    for mask in masks:
        (node,) = mask._inbound_nodes
        assert len(keras.tree.flatten((node.arguments.args, node.arguments.kwargs))) == 2
