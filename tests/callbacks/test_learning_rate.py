"""Learning rates beside batches that DynHP resizes, in a whole fit, by hand."""

import keras
import numpy as np
import pytest

import keras_dynhp as dynhp

X = np.random.default_rng(0).normal(size=(48, 4)).astype("float32")
Y = np.random.default_rng(1).normal(size=(48, 2)).astype("float32")


class Slide(keras.layers.Layer):
    """The gradient of its weight is 1, so that the weight tells the rates of the steps."""

    def build(self, input_shape):
        self.moved = self.add_weight(shape=(), initializer="zeros")

    def call(self, x):
        self.add_loss(1.0 * self.moved)
        return x


class Doubling(dynhp.BatchRule):
    """Twice the batch after each epoch."""

    def propose(self, context):
        return 2 * context.current

    def __call__(self, context):
        return self.propose(context)


def moves_of_epochs(rate, scaling, epochs=3):
    """How far a weight of gradient 1 moved in each epoch of batches of 4, 8 and 16."""
    x = keras.Input((4,))
    hidden = keras.layers.Dense(8, "relu")(x)
    model = keras.Model(x, Slide(name="slide")(keras.layers.Dense(2)(hidden)))
    model.compile(keras.optimizers.SGD(rate), "mse")
    seen = [0.0]

    def note(epoch, logs):
        seen.append(float(model.get_layer("slide").moved.numpy()))

    hp = dynhp.DynHP(target=dynhp.Target(compression=2), batch_size=Doubling(scaling))
    model.fit(
        X,
        Y,
        batch_size=4,
        epochs=epochs,
        verbose=0,
        callbacks=[hp, keras.callbacks.LambdaCallback(on_epoch_end=note)],
    )
    return model, list(-np.diff(seen))


@pytest.mark.parametrize(("scaling", "times"), [("none", 1), ("sqrt", 2**0.5), ("linear", 2)])
def test_rate_grows_with_the_batch_as_chosen(scaling, times):
    model, moves = moves_of_epochs(0.1, scaling)
    assert moves == pytest.approx([12 * 0.1, 6 * 0.1 * times, 3 * 0.1 * times**2], rel=1e-3)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1)  # the user's stays


def test_schedule_goes_on_by_samples():
    schedule = keras.optimizers.schedules.PolynomialDecay(1.0, 36, 0.0)  # three epochs of 12 steps
    model, moves = moves_of_epochs(schedule, "none")
    starts = [12 * epoch + np.arange(0, 12, step) for epoch, step in enumerate((1, 2, 4))]
    assert moves == pytest.approx([(1 - at / 36).sum() for at in starts], rel=1e-3)
    # A later fit without DynHP goes by iterations again.
    assert float(model.optimizer.learning_rate) == pytest.approx(1 - 21 / 36)


@pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="this Keras has no MultiOptimizer"
)
@pytest.mark.parametrize("callback", [dynhp.PruneAndRebuild, dynhp.DynHP])
def test_several_optimizers_in_one(callback):
    """Such an optimizer does not tell a learning rate: there are several."""
    first, second = keras.optimizers.SGD(0.05), keras.optimizers.Adam(0.01)
    optimizer = keras.optimizers.MultiOptimizer(lambda v: second if "bias" in v.path else first)
    layers = [keras.layers.Dense(8, "relu"), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(optimizer, "mse")
    hp = callback(target=dynhp.Target(compression=2))
    model.fit(X, Y, epochs=3, verbose=0, callbacks=[hp])
    assert hp.on_target
    rates = [epoch["logs"]["learning_rate"] for epoch in hp.report.epochs]
    assert rates == pytest.approx([0.05] * 3)
