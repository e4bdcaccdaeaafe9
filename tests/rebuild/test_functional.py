"""Blocks and subclassed models as graphs: what is computed stays, in training too."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import keras_dynhp as dynhp
from keras_dynhp.keras_state.graph import with_inner
from keras_dynhp.keras_state.sharing import models_beside


class FeedForward(layers.Layer):
    """Its sublayers have names of their own, the same in every block."""

    def __init__(self, units, hidden, rate=0.0, **kwargs):
        super().__init__(**kwargs)
        self.up = layers.Dense(hidden, activation="relu", name="up")
        self.norm = layers.BatchNormalization(name="norm")
        self.down = layers.Dense(units, name="down")
        self.dropout = layers.Dropout(rate, seed=3)

    def call(self, x, training=False):
        x = x + self.down(self.norm(self.up(x), training=training))
        return self.dropout(x, training=training)


class Encoder(layers.Layer):
    """Blocks in a list, a Sequential and attention inside; nobody is told of training."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(2, width // 2, name="attention")
        self.blocks = [FeedForward(width, 12, name=f"block_{i}") for i in range(2)]
        self.tail = keras.Sequential([layers.Dense(width), layers.BatchNormalization()])

    def call(self, x):
        x = self.attention(x, x) + x
        for block in self.blocks:
            x = block(x)
        return ops.relu(self.tail(x))


class Classifier(keras.Model):
    def __init__(self, blocks=2, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(6, activation="relu", name="first")
        self.blocks = [FeedForward(6, 10) for _ in range(blocks)]
        self.last = layers.Dense(2, name="last")

    def call(self, x, training=None):
        x = self.first(x)
        for block in self.blocks:
            x = block(x, training=training)
        return self.last(x)


def with_block(block, shape=(6,), **arguments):
    inputs = keras.Input(shape, name="given")
    x = block(layers.Dense(6, name="first")(inputs), **arguments)
    return keras.Model(inputs, layers.Dense(2, name="last")(x))


def samples(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def check_same(model, new, x):
    """In inference, in training (statistics that move, too), and after training."""
    for training in (False, True, False):
        np.testing.assert_array_equal(new(x, training=training), model(x, training=training))
    y = samples(*new(x).shape)
    for one in (model, new):
        one.compile(keras.optimizers.SGD(0.01), "mse")
        one.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    np.testing.assert_allclose(new(x), model(x), rtol=1e-5, atol=1e-6)


def calls(model):
    """How often the layers were called on symbolic tensors, which graphs are made of."""
    return {one: len(one._inbound_nodes) for one in with_inner(model) if one._inbound_nodes}


def test_blocks_in_blocks():
    model = with_block(Encoder(6, name="encoder"), (5, 6))
    assert not len(dynhp.find_groups(model))
    before = calls(model)
    new = dynhp.to_functional(model)
    assert calls(model) == before and models_beside(model) == []
    groups = dynhp.find_groups(new)
    assert not groups.barriers
    assert {
        "encoder/block_0/up": 12,
        "encoder/block_1/up": 12,
        "encoder/attention:heads": 2,
    }.items() <= {group.name: group.size for group in groups}.items()
    assert new.input.name == "given" and new.name == model.name
    assert new.get_layer("encoder").get_layer("block_1").get_layer("up").units == 12
    check_same(model, new, samples(8, 5, 6))


def test_a_subclassed_model_trains_and_becomes_small(tmp_path):
    model = Classifier()
    with pytest.raises(ValueError, match=r"to_functional\(model, keras.Input\(shape\)\)"):
        dynhp.find_groups(model)
    with pytest.raises(ValueError, match="what it is called on is unknown"):
        dynhp.to_functional(model)
    new = dynhp.to_functional(model, keras.Input((6,)))
    assert calls(model) == {} and models_beside(model) == []
    check_same(model, new, samples(16, 6))
    x, y = samples(64, 6), samples(64, 2)
    again = dynhp.to_functional(model, keras.Input((6,)))  # compiled and trained by now
    np.testing.assert_array_equal(again(x), model(x))
    new.compile("adam", "mse")
    new.fit(x, y, epochs=4, verbose=0, callbacks=[dynhp.DynHP(target=dynhp.Target(compression=2))])
    assert new.count_params() <= model.count_params() / 2
    new.save(tmp_path / "model.keras")  # in which no class of the user's is
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(x), new(x))


def test_masks_are_exact():
    new = dynhp.to_functional(with_block(Encoder(6), (5, 6)))
    masked = dynhp.add_masks(new)
    generator = np.random.default_rng(1)
    found = [one.mask for one in with_inner(masked) if isinstance(one, dynhp.NeuronMask)]
    for mask in {id(mask): mask for mask in found}.values():
        mask.assign(generator.permutation(np.arange(mask.shape[0]) % 2))
    x = samples(3, 5, 6)
    small = dynhp.rebuild(masked)
    assert small.count_params() < 0.7 * new.count_params()
    np.testing.assert_allclose(small(x), masked(x), rtol=1e-5, atol=1e-6)


def test_a_model_with_a_graph_and_a_call_of_its_own():
    class Doubled(keras.Model):
        def call(self, x):
            return 2.0 * super().call(x)

    inputs = keras.Input((6,))
    hidden = layers.Dense(8, name="hidden")(inputs)
    model = Doubled(inputs, layers.Dense(2)(hidden))
    x = samples(3, 6)
    with pytest.raises(ValueError, match="subclassed model"):  # its graph says something else
        dynhp.find_groups(model)
    new = dynhp.to_functional(model, keras.Input((6,)))
    np.testing.assert_array_equal(new(x), model(x))
    assert [group.size for group in dynhp.find_groups(new)] == [8]
    outer = keras.Model(inputs, layers.Dense(1)(model(inputs)))
    assert "subclassed model" in str(dynhp.find_groups(outer).barriers)
    np.testing.assert_allclose(dynhp.rebuild(dynhp.add_masks(outer))(x), outer(x), rtol=1e-6)
    opened = dynhp.to_functional(outer)
    assert not dynhp.find_groups(opened).barriers
    np.testing.assert_array_equal(opened(x), outer(x))


def test_a_block_that_is_called_again():
    block = FeedForward(6, 9)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(2)(block(block(inputs))))
    new = dynhp.to_functional(model)
    assert new.count_params() == model.count_params()
    check_same(model, new, samples(8, 6))


def test_several_inputs_and_outputs_and_settings():
    class Gate(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.one, self.other = layers.Dense(7), layers.Dense(7, activation="sigmoid")

        def call(self, x, gate=None, scale=1.0):
            made = self.one(x) * self.other(gate)
            return {"made": made * scale, "gate": gate}

    gate = Gate()
    inputs = [keras.Input((6,), name="x"), keras.Input((5,), name="g")]
    found = gate(inputs[0], gate=inputs[1], scale=3.0)
    again = gate(inputs[0], gate=inputs[1], scale=3.0)
    x = ops.concatenate([found["made"], found["gate"], again["made"]], -1)
    model = keras.Model(inputs, layers.Dense(2)(x))
    new = dynhp.to_functional(model)
    given = [samples(4, 6), samples(4, 5)]
    np.testing.assert_array_equal(new(given), model(given))
    assert new.count_params() == model.count_params()
    assert sum(group.size for group in dynhp.find_groups(new)) == 7


class Swish(layers.Layer):
    def call(self, x):
        return x * ops.sigmoid(x)


def test_layers_without_weights():
    shift = layers.Lambda(lambda x: ops.concatenate([x[:, 1:], x[:, :1]], axis=1), name="shift")
    inputs = keras.Input((4, 6))
    x = layers.Dense(7, name="first")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(shift(Swish(name="swish")(x))))
    assert set(dynhp.find_groups(model).barriers) == {"swish", "shift"}
    new = dynhp.to_functional(model)
    assert [(group.name, group.size) for group in dynhp.find_groups(new)] == [("first", 7)]
    check_same(model, new, samples(8, 4, 6))


def test_frozen_blocks_stay_frozen():
    block = FeedForward(6, 9)
    model = with_block(block)
    block.trainable = False
    new = dynhp.to_functional(model)
    assert [v.path for v in new.trainable_variables] == [v.path for v in model.trainable_variables]
    assert block.trainable is False and block.up.trainable is False
    model.trainable = False
    assert not dynhp.to_functional(model).trainable_variables


def test_mixed_precision():
    class Sum(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner = layers.Dense(6, dtype=self.dtype_policy)

        def call(self, x):
            return ops.tanh(x) + self.inner(x)

    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(2)(Sum(dtype="mixed_float16")(inputs)))
    new = dynhp.to_functional(model)
    np.testing.assert_array_equal(new(samples(3, 6)), model(samples(3, 6)))


class Closed(layers.Layer):
    """What a graph can't say, one of each kind."""

    def __init__(self, kind, **kwargs):
        super().__init__(**kwargs)
        self.kind = kind
        self.inner = layers.Dense(6)
        self.dropout = layers.Dropout(0.5)
        if kind in ("positions", "unused"):
            self.table = layers.Embedding(6, 6)
            self.table.build()
        if kind == "regularized":
            self.activity_regularizer = keras.regularizers.L2(1e-3)
        if kind == "draws":
            self.seeds = keras.random.SeedGenerator(1)
        if kind == "counts":
            self.count = self.add_weight(shape=(), dtype="int32", trainable=False, name="count")

    def build(self, shape):
        self.inner.build(shape)
        if self.kind == "weight":
            self.scale = self.add_weight(shape=(6,), initializer="ones", name="scale")

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}

    def call(self, x, training=None):
        if self.kind == "branch":
            return self.inner(x) if training else x + self.inner(x)
        if self.kind == "constant in training":
            return self.inner(x) * (2.0 if training else 1.0)
        if self.kind == "fixed":
            return self.dropout(self.inner(x), training=True)
        if self.kind == "weight":
            return self.inner(x) * self.scale
        if self.kind == "positions":
            return self.inner(x) + self.table(ops.arange(6))[0]
        if self.kind == "tied":
            return ops.matmul(self.inner(x), ops.transpose(self.inner.kernel))
        if self.kind == "tied, and shifts change nothing":
            return self.inner(x) + ops.softmax(self.inner.bias)
        if self.kind == "counts":
            self.count.assign_add(1)
        if self.kind == "draws from Keras's own":
            return self.inner(x) + keras.random.normal((6,))
        if self.kind == "draws from TensorFlow's":
            return self.inner(x) + tf.random.normal((6,))
        if self.kind == "draws":
            return self.inner(x) + keras.random.normal((6,), seed=self.seeds)
        if self.kind == "loss":
            self.add_loss(ops.sum(x))
        if self.kind == "length":
            return self.inner(x) + ops.ones((ops.shape(x)[0], 6))
        return self.inner(x)


REASONS = {
    "branch": "something else in training than in inference",
    "constant in training": "differs between training and inference",
    "fixed": "always tells 'dropout.*' training=True",
    "weight": "gives a weight to 'multiply.*', which is no layer's own",
    "positions": "computed from weights",
    "tied": "computed from weights",
    "tied, and shifts change nothing": "computed from weights",
    "draws from Keras's own": "changes what random numbers come from",
    "draws from TensorFlow's": "computed from weights",
    "draws": "changes '.*seed_generator_state'",
    "counts": "changes 'block/count'",
    "loss": "does not work with symbolic tensors: .add_loss",
    "length": "does not work with symbolic tensors",
    "regularized": "activity_regularizer",
    "unused": "'.*embeddings' otherwise than by calling a layer on what comes in, or not at all",
}


@pytest.mark.parametrize("kind", REASONS)
def test_what_a_graph_can_not_say_stays_as_it_is_and_is_named(kind):
    model = with_block(Closed(kind, name="block"))
    before = calls(model)
    with pytest.warns(UserWarning, match=f"unpruned inside:\n  block: .*{REASONS[kind]}"):
        new = dynhp.to_functional(model)
    assert isinstance(new.get_layer("block"), Closed)
    assert "to_functional" in dynhp.find_groups(new).barriers["block"]
    x = samples(3, 6)
    if "draws" not in kind:
        np.testing.assert_array_equal(new(x), model(x))
    assert calls(model) == before


def test_a_subclassed_model_that_is_no_graph():
    class Branches(Classifier):
        def call(self, x, training=None):
            return super().call(x if training else 2.0 * x)

    with pytest.raises(ValueError, match=r"can't be written as a graph: .* in training than in"):
        dynhp.to_functional(Branches(), keras.Input((6,)))


def test_a_block_that_is_told_to_train_always():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, FeedForward(6, 8, rate=0.5, name="b")(inputs, training=True))
    with pytest.warns(UserWarning, match="b: it is called with training=True"):
        new = dynhp.to_functional(model)
    x = samples(50, 6)
    for one in (model, new):  # Keras tells it otherwise where it is told itself
        assert np.mean(one(x) == 0.0) > 0.3
        assert np.mean(one(x, training=False) == 0.0) == 0.0


def test_a_model_that_fit_never_tells_of_training():
    class Untold(Classifier):
        def call(self, x):
            return super().call(x)

    with pytest.warns(UserWarning, match="does not tell 'untold' in fit.. that it is training"):
        dynhp.to_functional(Untold(), keras.Input((6,)))


def test_masks_of_keras_close_a_block():
    inputs = keras.Input((4,), dtype="int32")
    x = layers.Embedding(9, 6, mask_zero=True)(inputs)
    model = keras.Model(inputs, layers.GlobalAveragePooling1D()(FeedForward(6, 8, name="b")(x)))
    with pytest.warns(UserWarning, match="b: Keras's masks come in or go out"):
        dynhp.to_functional(model)


@pytest.mark.parametrize("inputs", [(6,), np.zeros((2, 6)), [], {"a": keras.Input((6,)), "b": 3}])
def test_inputs_that_are_none(inputs):
    with pytest.raises(TypeError, match=r"`inputs` must be .* a keras.Input such as .* Received: "):
        dynhp.to_functional(Classifier(), inputs)


def test_a_sequential_that_is_not_built():
    model = keras.Sequential([layers.Dense(4), layers.Dense(2)])
    new = dynhp.to_functional(model, keras.Input((6,)))
    np.testing.assert_array_equal(new(samples(3, 6)), model(samples(3, 6)))


def test_bad_input():
    with pytest.raises(TypeError, match=r"must be a keras.Model. Received: Dense"):
        dynhp.to_functional(layers.Dense(3))


def test_without_blocks_it_is_a_copy():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4), layers.Dense(2)], name="plain")
    model.layers[0].trainable = False
    new = dynhp.to_functional(model)
    assert new.name == "plain" and len(new.trainable_variables) == 2
    check_same(model, new, samples(8, 6))
    assert all(v is not w for v, w in zip(model.variables, new.variables))
