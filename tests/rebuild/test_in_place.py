"""The user's own model becomes smaller: what its layers know beside variables comes along."""

from __future__ import annotations

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import keras_dynhp as dynhp
from benchmarks.exactness import masked_in_place
from keras_dynhp.rebuild.in_place import rebuild_in_place
from keras_dynhp.rebuild.plan import plan_rebuild
from keras_dynhp.saving.networks import FormerNetwork, get_values

WORDS = np.array([["one"], ["two"], ["three"], ["two"]])


def test_statistics_and_vocabularies():
    numbers, words = keras.Input((6,), name="numbers"), keras.Input((1,), dtype="string")
    data = np.random.default_rng(0).normal(3, 2, size=(4, 6)).astype("float32")
    norm, lookup = L.Normalization(), L.StringLookup(output_mode="one_hot")
    norm.adapt(data)
    lookup.adapt(tf.constant(WORDS))
    x = L.Concatenate()([norm(numbers), lookup(words)])
    model = keras.Model([numbers, words], L.Dense(2)(L.Dense(8, "relu", name="stem")(x)))
    model.compile("adam", "mse")
    inputs = [tf.constant(data), tf.constant(WORDS)]
    groups = dynhp.find_groups(model)
    keep = {"stem": np.arange(8) % 2 == 0}
    masked_in_place(model, groups, keep)
    before = model(inputs).numpy()
    rebuild_in_place(plan_rebuild(groups, groups.survivors(keep)))
    assert model.get_layer("stem").units == 4
    np.testing.assert_allclose(model(inputs).numpy(), before, rtol=1e-5, atol=1e-6)
    assert np.ptp(before) > 0.1


def sequential(name, inputs, units):
    layers = [L.Dense(units, "relu", name=f"{name}_1"), L.Dense(units, "relu", name=f"{name}_2")]
    return keras.Sequential([keras.Input((inputs,)), *layers], name=name)


def functional(name, inputs, units):
    x = keras.Input((inputs,))
    return keras.Model(x, sequential("inside_" + name, inputs, units)(x), name=name)


def in_a_row(encoder, decoder):
    return keras.Sequential([keras.Input((12,)), encoder, decoder, L.Dense(3)])


def called_twice(encoder, decoder):
    x = keras.Input((12,))
    codes = L.Concatenate()([encoder(x), encoder(x * 2.0), decoder(encoder(x))])
    return keras.Model(x, L.Dense(3)(codes))


def inside_another(encoder, decoder):
    x, y = keras.Input((12,)), keras.Input((12,))
    return keras.Model(y, L.Dense(3)(keras.Model(x, decoder(encoder(x)), name="both")(y)))


def deep_in_a_wrapper(encoder, decoder):
    x, frames = keras.Input((12,)), L.Reshape((1, 12))(y := keras.Input((12,)))
    both = keras.Model(x, decoder(encoder(x)), name="both")
    return keras.Model(y, L.Dense(3)(L.Flatten()(L.TimeDistributed(both)(frames))))


def in_a_wrapper(encoder, decoder):
    frames = L.Reshape((1, 12))(y := keras.Input((12,)))
    frames = L.TimeDistributed(decoder)(L.TimeDistributed(encoder)(frames))
    return keras.Model(y, L.Dense(3)(L.Flatten()(frames)))


@pytest.mark.parametrize(
    ("inner", "around"),
    [
        (sequential, in_a_row),
        (functional, called_twice),
        (functional, inside_another),
        (sequential, in_a_wrapper),
        (functional, deep_in_a_wrapper),
    ],
)
def test_models_inside_stay_the_objects_they_were(inner, around, tmp_path):
    encoder, decoder = inner("encoder", 12, 16), inner("decoder", 16, 12)
    model = around(encoder, decoder)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    random = np.random.default_rng(0)
    x, y = random.normal(size=(8, 12)).astype("float32"), np.ones((8, 3), "float32")
    model.fit(x, y, verbose=0)
    former, values = FormerNetwork(model), get_values(model)
    before, code = model(x), encoder.predict(x, verbose=0)

    def is_whole():
        inside = {id(layer) for layer in model._flatten_layers()}
        assert {id(encoder), id(decoder)} <= inside
        ours = {id(variable) for variable in model.trainable_variables}
        both = (*encoder.trainable_variables, *decoder.trainable_variables)
        assert {id(variable) for variable in both} < ours
        model.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_allclose(again(x), model(x), rtol=1e-5, atol=1e-6)
        assert again.count_params() == model.count_params()
        tf.train.Checkpoint(model=model).write(str(tmp_path / "checkpoint"))
        # Nothing else of the name is left: it would be called a model that shares these layers.
        gc.collect()
        living = [o for o in gc.get_objects() if issubclass(type(o), keras.Model)]
        assert sum(o.name == "encoder" for o in living) == 2  # the other is in `again`

    for _ in range(2):
        groups = dynhp.find_groups(model)
        keep = {group.name: np.arange(group.size) % 2 == 0 for group in groups}
        masked_in_place(model, groups, keep)
        expected = model(x)
        rebuild_in_place(plan_rebuild(groups, groups.survivors(keep)))
        np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-6)
        is_whole()
    assert encoder.predict(x, verbose=0).shape[1] == encoder.outputs[0].shape[1] == 4
    former.come_back(values)
    is_whole()
    np.testing.assert_allclose(model.predict(x, verbose=0), before, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(encoder.predict(x, verbose=0), code, rtol=1e-5, atol=1e-6)
    # Freezing and fine-tuning it, as Keras's guide to transfer learning does.
    was = [np.asarray(variable) for variable in encoder.variables]
    for trainable in (False, True):
        encoder.trainable = trainable
        model.compile("sgd", "mse")
        model.fit(x, y, verbose=0)
        moved = [np.any(old != np.asarray(new)) for old, new in zip(was, encoder.variables)]
        assert any(moved) == trainable


@keras.saving.register_keras_serializable(package="tests")
class Penalized(keras.Model):
    """Holds its layers in a list, a tuple and a dict."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.hidden = [layer for layer in self.layers if layer.name.startswith("stem")]
        self.by_name = {layer.name: layer for layer in self.hidden}
        self.ends = (self.hidden[0], [self.hidden[-1]])


@keras.saving.register_keras_serializable(package="tests")
class Autoencoder(keras.Model):
    """Holds the models it is made of."""

    def __init__(self, inputs, outputs, **kwargs):
        super().__init__(inputs, outputs, **kwargs)
        self.encoder = self.get_layer("encoder")
        self.both = [self.encoder, self.get_layer("decoder")]


def test_models_that_a_model_holds():
    x, (encoder, decoder) = (
        keras.Input((12,)),
        (functional("encoder", 12, 8), sequential("decoder", 8, 12)),
    )
    model = Autoencoder(x, decoder(encoder(x)))
    groups = dynhp.find_groups(model)
    keep = {group.name: np.arange(group.size) < 3 for group in groups}
    rebuild_in_place(plan_rebuild(groups, groups.survivors(keep)))
    assert model.encoder is encoder is model.both[0] and model.both[1] is decoder
    assert encoder.output.shape[1] == 3


def test_layers_that_a_model_holds_in_lists():
    x = keras.Input((6,))
    hidden = L.Dense(8, name="stem_2")(L.Dense(8, name="stem_1")(x))
    model = Penalized(x, L.Dense(2)(hidden))
    groups = dynhp.find_groups(model)
    keep = {"stem_1": np.arange(8) < 3}
    rebuild_in_place(plan_rebuild(groups, groups.survivors(keep)))
    now = [model.get_layer("stem_1"), model.get_layer("stem_2")]
    assert now[0].units == 3
    for held in (list(model.hidden), list(model.by_name.values()), [model.ends[0], *model.ends[1]]):
        assert [id(layer) for layer in held] == [id(layer) for layer in now]
    assert len(model.weights) == 6


@keras.saving.register_keras_serializable(package="tests")
class Reconstructing(keras.Model):
    """Trains a layer beside its graph."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.beside = L.Dense(6, name="beside")
        self.beside.build((None, 2))

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            answer = self(x, training=True)
            error = tf.reduce_mean((answer - y) ** 2)
            loss = error + tf.reduce_mean((self.beside(answer) - x) ** 2)
        weights = [*self._of_graph(), *self.beside.trainable_variables]
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"both": loss}

    def _of_graph(self):
        return [v for layer in self.layers[:4] for v in layer.trainable_variables]


@pytest.mark.skipif(
    keras.__version__.startswith(("3.12.", "3.13.", "3.14.")),
    reason="before Keras 3.15 a Functional model does not count a layer outside its graph",
)
def test_layers_beside_the_graph_train_on():
    x = keras.Input((6,))
    outputs = L.Dense(2, name="out")(L.Dense(8, "relu")(L.Dense(16, "relu")(x)))
    model = Reconstructing(x, outputs)
    model.compile(keras.optimizers.Adam(0.01))
    random = np.random.default_rng(0)
    data = random.normal(size=(64, 6)).astype("float32"), random.normal(size=(64, 2))
    before, beside = model.count_params(), model.beside.kernel
    hp = dynhp.DynHP(target=dynhp.Target(compression=2))
    losses = model.fit(*data, epochs=6, callbacks=[hp], verbose=0).history["both"]
    assert model.count_params() < before
    assert model.beside.kernel is beside and losses[-1] < losses[0]
