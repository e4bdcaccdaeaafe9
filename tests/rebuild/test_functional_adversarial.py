"""Blocks of which a graph says something else than they compute: they stay, with the reason."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_dynhp as dynhp

X = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")


class Block(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.a = layers.Dense(12, activation="relu", name="a")
        self.b = layers.Dense(6, name="b")

    def build(self, shape):
        self.a.build(shape)
        self.b.build((*shape[:-1], 12))

    def call(self, x):
        return x + self.b(self.a(x))


class AddsLossOfWeights(Block):
    def call(self, x):
        self.add_loss(ops.sum(ops.square(self.a.kernel)))
        return super().call(x)


class AssignsInTraining(Block):
    def call(self, x, training=None):
        if training:
            self.a.kernel.assign(ops.clip(self.a.kernel, -0.05, 0.05))
        return super().call(x)


class WholeNumber(Block):
    def build(self, shape):
        super().build(shape)
        self.times = self.add_weight(shape=(), dtype="int32", initializer="ones", trainable=False)

    def call(self, x):
        return super().call(x) * ops.cast(self.times, x.dtype)


class SwitchedByAWeight(Block):
    def call(self, x):
        return super().call(x) * ops.where(self.a.bias[0] >= 0, 2.0, 1.0)


class WeightsInAFunction(Block):
    def scaled(self, row):
        return row * ops.sum(self.a.kernel)

    def call(self, x):
        return ops.map(self.scaled, super().call(x))


class WeightsInAnActivation(Block):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.act = layers.Activation(self.scaled)

    def scaled(self, x):
        return x * ops.sum(self.a.kernel)

    def call(self, x):
        return self.act(super().call(x))


class Scale(keras.Operation):
    def __init__(self, layer):
        super().__init__(name="scale")
        self.layer = layer

    def call(self, x):
        return x * ops.sum(self.layer.kernel)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


class WeightsInAnOperation(Block):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.scale = Scale(self.a)

    def call(self, x):
        return self.scale(super().call(x))


class ToldTheOpposite(Block):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dropout = layers.Dropout(0.5, seed=1)

    def call(self, x, training=None):
        return super().call(self.dropout(x, training=not training))


class TrainsByDefault(Block):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.noise = layers.RandomContrast(0.5, seed=1)

    def call(self, x, training=False):
        return super().call(self.noise(x[:, None, :, None], training=training)[:, 0, :, 0])


class Measures(Block):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = keras.metrics.Mean(name="norm")

    def call(self, x):
        return super().call(x)


OUTSIDE = layers.Dense(6)


class CallsWhatItDoesNotHold(Block):
    def call(self, x):
        return super().call(OUTSIDE(x))


class MakesALayer(Block):
    def call(self, x):
        return layers.Activation("relu", name="relu")(super().call(x))


class AsksForTheBatch(Block):
    def call(self, x):
        more = ops.mean(self.a(x), axis=-1, keepdims=True)
        return super().call(x) + ops.broadcast_to(more, (ops.shape(x)[0], 6))


REASONS = {
    AddsLossOfWeights: "adds losses",
    AssignsInTraining: "changes '.*/a/kernel'",
    WholeNumber: "uses '.*' otherwise than by calling a layer",
    SwitchedByAWeight: "computed from weights",
    WeightsInAFunction: "'map' is given a function that may compute with weights of others",
    WeightsInAnActivation: "'activation.*' is given a function",
    WeightsInAnOperation: "'scale' is an operation of its own",
    ToldTheOpposite: "always tells 'dropout.*' training=something else than it is told",
    TrainsByDefault: "'random_contrast.*' trains by default, and it does not",
    Measures: "keeps metrics",
    MakesALayer: "makes 'relu' anew",
    AsksForTheBatch: "'broadcast_to.*' makes a size that is unknown here",
    CallsWhatItDoesNotHold: "calls the layer 'dense.*', which it does not hold",
}


def with_block(block, shape=(6,)):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layers.Dense(2, name="last")(block(inputs)))


@pytest.mark.parametrize("kind", REASONS, ids=lambda kind: kind.__name__)
def test_it_stays(kind):
    block = kind(name="block")
    model = with_block(block)
    with pytest.warns(UserWarning, match=f"block: .*{REASONS[kind]}"):
        new = dynhp.to_functional(model)
    for training in (None, False, True):
        if training is None or kind not in (ToldTheOpposite, TrainsByDefault):
            np.testing.assert_array_equal(new(X, training=training), model(X, training=training))
    np.testing.assert_allclose(sum(new.losses), sum(model.losses), rtol=1e-6)
    if kind is ToldTheOpposite:  # whose dropout draws anew
        return
    before = np.asarray(new(X))
    block.a.kernel.assign(5.0 * block.a.kernel)  # the copy has its own
    np.testing.assert_array_equal(new(X), before)


def test_a_reshape_by_the_batch_is_opened():
    """As attention is often written by hand."""

    class Attention(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.parts = [layers.Dense(6, name=name) for name in ("q", "k", "v", "o")]

        def call(self, x):
            batch = ops.shape(x)[0]
            q, k, v = (
                ops.transpose(ops.reshape(part(x), (batch, -1, 2, 3)), (0, 2, 1, 3))
                for part in self.parts[:3]
            )
            made = ops.softmax(q @ ops.transpose(k, (0, 1, 3, 2))) @ v
            return self.parts[3](ops.reshape(ops.transpose(made, (0, 2, 1, 3)), (batch, -1, 6)))

    model = with_block(Attention(), (5, 6))
    new = dynhp.to_functional(model)
    x = np.random.default_rng(1).normal(size=(4, 5, 6)).astype("float32")
    np.testing.assert_allclose(new(x), model(x), atol=1e-6)
    assert not dynhp.find_groups(new).barriers


class Fixed(Block):
    def compute_output_shape(self, shape):
        return shape


def test_a_block_beside_a_wrapper_around_it_stays_one_layer():
    block = Fixed(name="block")
    inputs = keras.Input((5, 6))
    model = keras.Model(inputs, layers.TimeDistributed(block)(block(inputs)))
    with pytest.warns(UserWarning, match="block: 'time_distributed.*' holds it, too"):
        new = dynhp.to_functional(model)
    x = np.random.default_rng(1).normal(size=(4, 5, 6)).astype("float32")
    np.testing.assert_array_equal(new(x), model(x))
    assert len(new.variables) == len(model.variables)


class Times(Block):
    def call(self, x, times=1.0):
        return super().call(x) * times


@pytest.mark.parametrize("how", ["settings", "shapes", "settings in a model inside"])
def test_a_block_that_is_called_in_two_ways_stays_one_layer(how):
    block = Times(name="block")
    inputs = keras.Input((6,))
    if how == "settings":
        x = block(block(inputs, times=2.0))
    elif how == "shapes":
        x = block(inputs) + block(ops.expand_dims(inputs, 1))[:, 0]
    else:
        given = keras.Input((6,))
        x = block(keras.Model(given, block(given, times=2.0))(inputs))
    model = keras.Model(inputs, layers.Dense(2)(x))
    with pytest.warns(UserWarning, match="block: it is called in two ways"):
        new = dynhp.to_functional(model)
    np.testing.assert_array_equal(new(X), model(X))
    assert len(new.variables) == len(model.variables)


def test_partly_thawed_models_and_blocks():
    inputs = keras.Input((6,))
    base = keras.Model(inputs, layers.Dense(6)(layers.Dense(12)(inputs)))
    block = Block()
    model = keras.Model(inputs, layers.Dense(2)(block(base(inputs))))
    base.trainable = block.trainable = False
    base.layers[-1].trainable = block.b.trainable = True  # as Keras's guide to fine-tuning has it
    new = dynhp.to_functional(model)
    assert [v.shape for v in new.trainable_variables] == [
        v.shape for v in model.trainable_variables
    ]
    assert len(new.trainable_variables) == 6


def test_inputs_by_name():
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.p, self.q = layers.Dense(6), layers.Dense(6)

        def call(self, given):
            return self.p(given["b"]) + self.q(given["a"])

    model, x = Two(), {"a": X, "b": X[:, :4]}
    inputs = {"a": keras.Input((6,), name="a"), "b": keras.Input((4,), name="b")}
    new = dynhp.to_functional(model, inputs)
    np.testing.assert_array_equal(new(x), model(x))


def test_what_fit_does_in_another_way_is_told():
    class Own(keras.Model):
        def compute_loss(self, *args, **kwargs):
            return 10.0 * super().compute_loss(*args, **kwargs)

    inputs = keras.Input((6,))
    with pytest.warns(UserWarning, match=r"has the usual compute_loss\(\), and Own one of its own"):
        dynhp.to_functional(Own(inputs, layers.Dense(2)(inputs)))


def test_python_state_is_as_it_was():
    class Counts(Block):
        calls, last = 0, None

        def call(self, x):
            self.calls += 1
            self.last = super().call(x)
            return self.last

    block = Counts()
    model = with_block(block)
    model(X)
    before = block.calls, block.last
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new = dynhp.to_functional(model)
    assert block.calls == before[0] + 2  # compared with the copy, and with itself
    assert not isinstance(block.last, keras.KerasTensor)
    assert len(dynhp.find_groups(new)) > 0


def test_a_copy_that_would_compute_something_else_is_refused():
    class Flag(Block):
        doubled = False

        def build(self, shape):
            super().build(shape)
            self.scale = self.add_weight(shape=(6,), initializer="ones", name="scale")

        def call(self, x):
            return super().call(x) * self.scale * (2.0 if self.doubled else 1.0)

    block = Flag(name="block")
    model = with_block(block)
    block.doubled = True
    with (
        pytest.warns(UserWarning, match="block: its call"),
        pytest.raises(ValueError, match="computes something else than the model: up to"),
    ):
        dynhp.to_functional(model)


def test_a_policy_of_the_whole_model():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = with_block(Block())
    finally:
        keras.config.set_dtype_policy("float32")
    new = dynhp.to_functional(model)
    for one in (new, dynhp.add_masks(new)):
        one.compile("adam", "mse")
        assert isinstance(one.optimizer, keras.optimizers.LossScaleOptimizer)
