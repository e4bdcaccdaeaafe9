"""Dropout grows weaker where neurons have gone, while a callback prunes."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_dynhp as dynhp
from keras_dynhp.pruning.dropout import surviving_shares, weaken_dropout


def test_each_layer_by_what_it_is_given():
    inputs = keras.Input((8, 8, 3))
    x = L.Dropout(0.1, name="in")(inputs)
    x = L.SpatialDropout2D(0.2, name="maps")(L.Conv2D(4, 3, name="conv")(x))
    x = L.Concatenate()([L.Flatten()(x), L.Flatten()(inputs)])
    x = L.GaussianDropout(0.3, name="mixed")(x)
    inner = keras.Sequential(
        [keras.Input((336,)), L.Dense(5, name="a"), L.AlphaDropout(0.4)], name="inner"
    )
    model = keras.Model(inputs, L.Dense(2)(inner(x)))
    shares = surviving_shares(dynhp.find_groups(model), {"conv": 8.0, "inner/a": 20.0})
    by_rate = {layer.rate: share for layer, share in shares}
    assert by_rate == {
        0.1: 1.0,
        0.2: 0.5,
        0.3: pytest.approx((36 * 4 + 192) / (36 * 8 + 192)),
        0.4: 0.25,
    }


def test_a_shared_layer_drops_as_its_widest_call_can_bear():
    drop = L.Dropout(0.5)
    inputs = keras.Input((4,))
    x = drop(L.Dense(6, name="a")(inputs))
    y = drop(L.Dense(6, name="b")(inputs))
    model = keras.Model(inputs, L.Dense(1)(L.Concatenate()([x, y])))
    groups = dynhp.find_groups(model)
    [(layer, share)] = surviving_shares(groups, {"a": 24.0, "b": 12.0})
    assert layer is drop and share == 0.5


def test_a_subclassed_model_inside_is_left_alone():
    class Own(keras.Model):
        def call(self, x):
            return x * 2.0

    inputs = keras.Input((4,))
    x = L.Dropout(0.5)(L.Dense(6, name="a")(inputs))
    model = keras.Model(inputs, Own()(L.Dense(3, name="b")(x)))
    shares = surviving_shares(dynhp.find_groups(model), {"a": 12.0})
    assert [share for _, share in shares] == [0.5]


def dropped(layer, width=4000):
    return float(np.mean(np.asarray(layer(np.ones((50, width), "float32"), training=True)) == 0))


def test_until_it_is_given_back():
    model = keras.Sequential([keras.Input((4,)), L.Dense(5, name="a"), L.Dropout(0.6), L.Dense(1)])
    drop = model.layers[1]
    give_back = weaken_dropout(dynhp.find_groups(model), {"a": 20.0})
    assert dropped(drop) == pytest.approx(0.15, abs=0.01)
    assert drop.rate == 0.6 and drop.get_config()["rate"] == 0.6
    assert keras.models.clone_model(model).layers[1].rate == 0.6
    give_back()
    assert dropped(drop) == pytest.approx(0.6, abs=0.01)
    assert "call" not in vars(drop)


@pytest.mark.parametrize("prunes", [True, False])
def test_in_a_fit(prunes, tmp_path):
    """What the training step drops, seen behind the layer; a saved file has the user's rate."""
    zeros = keras.metrics.Mean(name="zeros")

    @keras.saving.register_keras_serializable("tests")
    class Watch(L.Layer):
        def call(self, x, training=False):
            if training:
                zeros.update_state(keras.ops.cast(x == 0.0, "float32"))
            return x

    dynhp.register_rule(Watch)(lambda call: call.inputs[0])
    inputs = keras.Input((10,))
    x = L.Dropout(0.5, name="drop")(L.Dense(400, "sigmoid", name="wide")(inputs))
    model = keras.Model(inputs, L.Dense(1)(Watch()(x)))
    model.compile("adam", "mse")
    x, y = np.random.rand(320, 10), np.random.rand(320, 1)
    schedule = (lambda progress: 1.0) if prunes else (lambda progress: 0.0)
    hp = dynhp.PruneAndRebuild(dynhp.Target(compression=4), schedule=schedule)
    begin = keras.callbacks.LambdaCallback(on_epoch_begin=lambda *_: zeros.reset_state())
    save = keras.callbacks.ModelCheckpoint(tmp_path / "model.keras", save_freq=25)
    model.fit(x, y, epochs=3, verbose=0, callbacks=[hp, begin, save])
    width = model.get_layer("wide").units
    assert (width < 400) == prunes
    assert float(zeros.result()) == pytest.approx(0.5 * width / 400, abs=0.02)
    assert model.get_layer("drop").rate == 0.5 and "call" not in vars(model.get_layer("drop"))
    saved = keras.saving.load_model(tmp_path / "model.keras")
    assert saved.get_layer("drop").rate == 0.5
