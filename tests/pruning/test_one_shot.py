"""prune: hard pruning outside training."""

from __future__ import annotations

import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import keras_dynhp as dynhp
from keras_dynhp.pruning import one_shot
from keras_dynhp.pruning.one_shot import _Gates
from keras_dynhp.rebuild.masked import smaller_copy
from keras_dynhp.rebuild.plan import plan_rebuild

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(64, 6)).astype("float32")
Y = (X[:, 0] > 0).astype("int32")
DATA = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)


def compiled(model):
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def mlp():
    random.seed(0)
    return compiled(
        keras.Sequential(
            [keras.Input((6,)), L.Dense(20, "relu", name="a"), L.Dense(12, name="b"), L.Dense(2)]
        )
    )


def residual():
    random.seed(0)
    inputs = keras.Input((6,))
    x = L.Dense(16, "relu", name="stem")(inputs)
    for name in ("one", "two"):
        y = L.Dense(24, "relu", name=f"{name}_inner")(L.BatchNormalization()(x))
        x = L.Add()([x, L.Dense(16, name=f"{name}_outer")(y)])
    return compiled(keras.Model(inputs, L.Dense(2)(x)))


def sequence():
    random.seed(0)
    inputs = keras.Input((6,))
    x = L.Dense(8)(L.Reshape((6, 1))(inputs))
    x = L.MultiHeadAttention(4, 3, name="mha")(x, x)
    return compiled(keras.Model(inputs, L.Dense(2)(L.GRU(8, name="gru")(x))))


@pytest.mark.parametrize("make", [mlp, residual, sequence])
@pytest.mark.parametrize("criterion", ["magnitude", "random", "taylor"])
def test_a_smaller_copy_within_the_target(make, criterion):
    model = make()
    weights = [w.copy() for w in model.get_weights()]
    config = model.get_config()
    data = DATA if criterion == "taylor" else None
    small = dynhp.prune(model, dynhp.Target(compression=3), criterion, data)
    assert small.count_params() <= model.count_params() / 3
    assert small is not model and type(small) is type(model)
    assert not any(isinstance(layer, dynhp.NeuronMask) for layer in small.layers)
    assert small.predict(X, verbose=0).shape == (64, 2)
    assert model.get_config() == config and model.compiled
    for before, after in zip(weights, model.get_weights()):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("trainable", [True, False])
def test_taylor_lets_go_of_what_the_loss_does_not_feel(trainable):
    """Large weights into neurons that nobody listens to: magnitude would keep them."""
    model = mlp()
    first, second, last = model.layers
    kernel = first.kernel.numpy()
    kernel[:, ::2] *= 10.0
    first.kernel.assign(kernel)
    reading = second.kernel.numpy()
    reading[::2] = 0.0
    second.kernel.assign(reading)
    reading = last.kernel.numpy()
    reading[6:] = 0.0
    last.kernel.assign(reading)
    for layer in model.layers:
        layer.trainable = trainable
    params = 6 * 10 + 10 + 10 * 6 + 6 + 6 * 2 + 2
    small = dynhp.prune(model, dynhp.Target(params=params), "taylor", DATA)
    assert [layer.units for layer in small.layers] == [10, 6, 2]
    np.testing.assert_allclose(
        model.predict(X, verbose=0), small.predict(X, verbose=0), rtol=1e-5, atol=1e-5
    )


@pytest.mark.slow
def test_taylor_beats_chance_on_trained_networks():
    """On average: what a single small network keeps, untuned, differs by ten points by its seed."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = (x / 16.0).astype("float32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    data = tf.data.Dataset.from_tensor_slices((x[:512], y[:512])).batch(64)
    accuracy = {"taylor": [], "random": []}
    for seed in range(4):
        keras.utils.set_random_seed(seed)
        layers = [L.Dense(64, "relu"), L.Dense(32, "relu"), L.Dense(10)]
        model = keras.Sequential([keras.Input((64,)), *layers])
        model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
        model.fit(x, y, batch_size=64, epochs=12, verbose=0)
        for criterion, found in accuracy.items():
            small = dynhp.prune(model, dynhp.Target(compression=2), criterion, data)
            small.compile(loss=loss, metrics=["accuracy"])
            found.append(small.evaluate(x, y, verbose=0)[1])
    assert np.mean(accuracy["taylor"]) > np.mean(accuracy["random"]) + 0.1
    assert np.mean(accuracy["taylor"]) > 0.75


@pytest.fixture(scope="module")
def prune_digits():
    """Prunes a trained network whose filters cost four times what its neurons do."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = (x / 16.0).astype("float32").reshape(-1, 8, 8, 1)
    keras.utils.set_random_seed(0)
    layers = [L.Conv2D(16, 3, padding="same", activation="relu"), L.Flatten(), L.Dense(64, "relu")]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers, L.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=6, verbose=0)
    data = tf.data.Dataset.from_tensor_slices((x[:512], y[:512])).batch(64)

    def prune(compression, criterion):
        """What is left of the filters, and the accuracy without any tuning."""
        small = dynhp.prune(model, dynhp.Target(compression=compression), criterion, data)
        small.compile(loss=loss, metrics=["accuracy"])
        return small.layers[0].filters, small.evaluate(x, y, verbose=0)[1]

    return prune


def test_gradients_taken_anew_keep_a_layer_from_being_emptied(prune_digits, monkeypatch):
    filters, accuracy = prune_digits(16, "taylor")
    monkeypatch.setattr(one_shot, "LEFT", 1e-6)  # one round
    filters_at_once, accuracy_at_once = prune_digits(16, "taylor")
    assert filters >= 4 > filters_at_once
    assert accuracy > accuracy_at_once + 0.1


def test_magnitude_does_not_empty_a_layer(prune_digits):
    filters, accuracy = prune_digits(4, "magnitude")
    assert 4 <= filters <= 14
    assert accuracy > 0.75


@pytest.mark.parametrize("make", [mlp, residual, sequence])
def test_gates_without_neurons_are_those_of_the_network_without_them(make):
    model = make()
    groups = dynhp.find_groups(model)
    masks = {group.name: RANDOM.random(group.size) < 0.6 for group in groups}
    for mask in masks.values():
        mask[0] = True
    small = smaller_copy(plan_rebuild(groups, groups.survivors(masks)))
    small.compile(loss=model.loss)
    smaller = dynhp.find_groups(small)
    found = _Gates(small, smaller, DATA).without({g.name: np.ones(g.size, bool) for g in smaller})
    expected = _Gates(model, groups, DATA).without(masks)
    assert found.keys() == expected.keys()
    for name, mask in masks.items():
        np.testing.assert_allclose(found[name], expected[name][mask], rtol=1e-4, atol=1e-9)
        assert not expected[name][~mask].any()


def test_taylor_for_several_outputs_of_a_model_that_was_never_fit():
    inputs = keras.Input((6,))
    hidden = L.Dense(20, "relu", kernel_regularizer="l2", activity_regularizer="l2")(inputs)
    model = keras.Model(inputs, {"one": L.Dense(2)(hidden), "two": L.Dense(1)(hidden)})
    model.compile("adam", {"one": "mse", "two": "mae"})
    data = DATA.map(lambda x, y: (x, {"one": x[:, :2], "two": x[:, :1]}))
    small = dynhp.prune(model, dynhp.Target(compression=3), "taylor", data)
    assert small.count_params() <= model.count_params() / 3
    model.fit(data, verbose=0)


def test_sample_weights_count():
    """Samples of weight zero have no say in what stays."""
    model = mlp()
    half = RANDOM.normal(size=X.shape).astype("float32")
    both, labels = np.concatenate([X, half]), np.concatenate([Y, 1 - Y])
    weights = np.concatenate([np.ones(64), np.zeros(64)]).astype("float32")
    weighted = tf.data.Dataset.from_tensor_slices((both, labels, weights)).batch(128)
    plain = tf.data.Dataset.from_tensor_slices((X, Y)).batch(64)
    target = dynhp.Target(compression=3)
    one, other = (dynhp.prune(model, target, "taylor", data) for data in (weighted, plain))
    for a, b in zip(one.get_weights(), other.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_several_targets_hold_together():
    target = dynhp.Target(params=150, macs=130)
    small = dynhp.prune(mlp(), target)
    assert small.count_params() <= 150 and dynhp.count_macs(small) <= 130


@pytest.mark.parametrize(
    ("data", "message"),
    [(None, "must be a tf.data.Dataset"), ((X, Y), "must be a tf.data.Dataset")],
)
def test_taylor_without_data(data, message):
    with pytest.raises(ValueError, match=message):
        dynhp.prune(mlp(), dynhp.Target(compression=2), "taylor", data)


def test_taylor_without_a_batch():
    with pytest.raises(ValueError, match="`data` is empty"):
        dynhp.prune(mlp(), dynhp.Target(compression=2), "taylor", DATA.take(0))


def test_taylor_of_data_that_never_end():
    with pytest.raises(ValueError, match=r"never ends: give a part of it, such as data.take"):
        dynhp.prune(mlp(), dynhp.Target(compression=2), "taylor", DATA.repeat())


def test_taylor_without_a_loss():
    model = keras.Sequential([keras.Input((6,)), L.Dense(5), L.Dense(2)])
    with pytest.raises(ValueError, match=r"call model.compile\(loss=...\) first"):
        dynhp.prune(model, dynhp.Target(compression=2), "taylor", DATA)


@pytest.mark.parametrize("target", [10, None, "4MB"])
def test_what_is_no_target(target):
    with pytest.raises(TypeError, match=r"must be a keras_dynhp.Target"):
        dynhp.prune(mlp(), target)


def test_a_target_out_of_reach():
    model = mlp()
    before = model.get_weights()
    with pytest.raises(ValueError, match="params"):
        dynhp.prune(model, dynhp.Target(params=3))
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b)
