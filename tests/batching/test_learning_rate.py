"""The learning rate beside batches of another size, in real fits and by hand."""

import keras
import numpy as np
import pytest

from keras_dynhp.batching.data import FitData
from keras_dynhp.batching.learning_rate import (
    BatchRates,
    RateFactor,
    SampleClock,
    scaled_learning_rate,
)
from keras_dynhp.keras_state.optimizer import hook_update_step

schedules = keras.optimizers.schedules
X, Y = np.ones((40, 1), "float32"), np.zeros((40, 1), "float32")


@pytest.mark.parametrize(("scaling", "rate"), [("none", 0.1), ("linear", 0.4), ("sqrt", 0.2)])
def test_scaled_learning_rate(scaling, rate):
    assert scaled_learning_rate(0.1, 32, 128, scaling) == pytest.approx(rate)
    assert scaled_learning_rate(rate, 128, 32, scaling) == pytest.approx(0.1)


def test_unknown_scaling():
    with pytest.raises(ValueError, match="'cubic'"):
        scaled_learning_rate(0.1, 32, 128, "cubic")


class Slide(keras.layers.Layer):
    """The gradient of its weight is 1 for each sample: the weight tells the rates of the steps."""

    def build(self, input_shape):
        self.moved = self.add_weight(shape=(), initializer="zeros")

    def call(self, x):
        return x * self.moved


def make_model(rate, **options):
    x = keras.Input((1,))
    model = keras.Model(x, Slide(name="slide")(x))
    model.compile(keras.optimizers.SGD(rate), lambda y, p: keras.ops.mean(p), **options)
    return model


class Factors(keras.callbacks.Callback):
    """Sets the factor of each epoch, and notes how far the weight moved."""

    def __init__(self, factors):
        super().__init__()
        self.factors, self.moves, self.last = factors, [], 0.0

    def on_train_begin(self, logs=None):
        self.factor = RateFactor(self.model.optimizer)
        self.model.make_train_function(force=True)

    def on_epoch_begin(self, epoch, logs=None):
        self.factor.value = self.factors[epoch]

    def on_epoch_end(self, epoch, logs=None):
        now = float(self.model.get_layer("slide").moved.numpy())
        self.moves.append(self.last - now)
        self.last = now

    def on_train_end(self, logs=None):
        self.factor.remove()


def moves(model, *callbacks, factors=(1.0, 2.0, 0.5), **options):
    factors = Factors(factors)
    model.fit(X, Y, batch_size=10, epochs=3, verbose=0, callbacks=[*callbacks, factors])
    return factors.moves


RATES = {
    "number": (lambda: 0.1, [0.4, 0.8, 0.2]),
    "function": (lambda: lambda: 0.1, [0.4, 0.8, 0.2]),
    "schedule": (
        lambda: schedules.PiecewiseConstantDecay([3, 7], [0.1, 0.2, 0.4]),
        [0.4, 1.6, 0.8],
    ),
}


@pytest.mark.parametrize("how", [{}, {"run_eagerly": True}, {"jit_compile": True}])
@pytest.mark.parametrize("rate", RATES)
def test_factor_scales_the_steps_of_every_kind_of_rate(rate, how):
    make, expected = RATES[rate]
    assert moves(make_model(make(), **how)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("first", [True, False])
def test_factor_beside_callbacks_that_set_the_rate(first):
    """`LearningRateScheduler` sets an absolute rate, the plateau a relative one; in any order."""
    beside = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 * (epoch + 1))
    model, factors = make_model(0.5), Factors([1.0, 2.0, 0.5])
    callbacks = [factors, beside] if first else [beside, factors]
    history = model.fit(X, Y, batch_size=10, epochs=3, verbose=0, callbacks=callbacks).history
    assert factors.moves == pytest.approx([0.4, 1.6, 0.6], rel=1e-5)
    assert history["learning_rate"] == pytest.approx([0.1, 0.2, 0.3])

    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, mode="max")
    model, factors = make_model(0.1), Factors([1.0, 2.0, 2.0])
    callbacks = [factors, plateau] if first else [plateau, factors]
    model.fit(X, Y, batch_size=10, epochs=3, verbose=0, callbacks=callbacks)
    assert factors.moves == pytest.approx([0.4, 0.8, 0.4], rel=1e-5)


def test_factor_and_hooks_in_any_order_of_coming_and_going():
    for hook_first in (True, False):
        for hook_leaves_first in (True, False):
            optimizer, variable, seen = keras.optimizers.SGD(1.0), keras.Variable(0.0), []

            def come(what, optimizer=optimizer, seen=seen):
                if what == "hook":
                    return hook_update_step(optimizer, before=lambda g, v: seen.append(1))
                factor = RateFactor(optimizer)
                factor.value = 3.0
                return factor.remove

            order = ["hook", "factor"] if hook_first else ["factor", "hook"]
            leave = {what: come(what) for what in order}
            optimizer.apply([keras.ops.ones(())], [variable])
            assert (float(variable.numpy()), seen) == (-3.0, [1])
            for what in ["hook", "factor"] if hook_leaves_first else ["factor", "hook"]:
                leave[what]()
            optimizer.apply([keras.ops.ones(())], [variable])
            assert (float(variable.numpy()), seen) == (-4.0, [1])


def test_factor_is_seen_through_by_wrappers():
    inner = keras.optimizers.SGD(1.0)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=1.0)
    variable = keras.Variable(0.0)
    factor = RateFactor(optimizer)
    factor.value = 3.0
    optimizer.apply([keras.ops.ones(())], [variable])
    assert float(variable.numpy()) == -3.0


# --- the clock -----------------------------------------------------------------------------------


def timed(schedule, kind=keras.optimizers.SGD):
    """An optimizer with a clock, and a function that tells its rate after so many iterations."""
    optimizer = kind(schedule)
    clock = SampleClock(optimizer)

    def rate_at(step):
        optimizer.iterations.assign(step)
        return float(optimizer.learning_rate)

    return clock, rate_at


def test_clock_follows_the_schedule_at_a_pace_of_one():
    schedule = schedules.CosineDecay(0.1, 50)
    _, rate_at = timed(schedule)
    assert [rate_at(step) for step in range(50)] == [float(schedule(step)) for step in range(50)]


def test_clock_changes_its_pace_without_a_jump():
    clock, rate_at = timed(schedules.PolynomialDecay(1.0, 100, 0.0))  # falls by 0.01 a step
    values = [rate_at(0), rate_at(10)]
    clock.set_pace(2.0)
    values.append(rate_at(20))
    clock.set_pace(0.5)
    values.append(rate_at(40))
    assert clock.position == 10 + 2 * 10 + 0.5 * 20
    assert values == pytest.approx([1.0, 0.9, 0.7, 0.6])


def test_clock_counts_long_trainings():
    clock, rate_at = timed(schedules.PolynomialDecay(1.0, 100, 0.0))
    rate_at(2**40)
    clock.set_pace(1.0)
    before = clock.position
    rate_at(2**40 + 3)
    assert clock.position - before == 3


def test_saved_optimizers_know_nothing_of_the_clock():
    schedule = schedules.ExponentialDecay(0.1, 10, 0.5)
    optimizer = keras.optimizers.Adam(schedule)
    before = dict(vars(optimizer))
    clock = SampleClock(optimizer)
    clock.set_pace(2.0)
    config = optimizer.get_config()["learning_rate"]
    assert config["class_name"] == "ExponentialDecay" and config["module"].startswith("keras.")
    clock.remove()
    assert vars(optimizer) == before


def test_clock_goes_on_from_its_state():
    clock, rate_at = timed(schedules.PolynomialDecay(1.0, 100, 0.0))
    rate_at(10)
    clock.set_pace(3.0)
    other, rate_of_other = timed(schedules.PolynomialDecay(1.0, 100, 0.0))
    other.set_state(clock.get_state())
    assert rate_of_other(14) == rate_at(14) == pytest.approx(1 - 0.22)


@pytest.mark.parametrize("scaling", ["none", "linear"])
@pytest.mark.parametrize("how", [{}, {"run_eagerly": True}, {"jit_compile": True}])
def test_schedule_ends_with_the_training_though_the_batch_grows(how, scaling):
    """By hand: each step's rate, with the batch going from 4 to 8 to 20 samples."""
    sizes = [4, 8, 20, 4]

    class Grow(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.data = FitData.attach(self.model)
            self.rates = BatchRates(self.model.optimizer, scaling, self.data.batch_size)
            self.moves, self.last = [], 0.0

        def on_epoch_begin(self, epoch, logs=None):
            self.data.set_batch_size(sizes[epoch])
            self.rates.follow(self.data)

        def on_epoch_end(self, epoch, logs=None):
            now = float(self.model.get_layer("slide").moved.numpy())
            self.moves.append(self.last - now)
            self.last = now

        def on_train_end(self, logs=None):
            self.rates.remove()
            self.data.detach()

    schedule = schedules.PolynomialDecay(1.0, 40, 0.0)  # four epochs of ten steps
    model, grow = make_model(schedule, **how), Grow()
    model.fit(X, Y, batch_size=4, epochs=4, verbose=0, callbacks=[grow])
    starts = [10 * epoch + np.arange(0, 10, size / 4) for epoch, size in enumerate(sizes)]
    times = np.array(sizes) / 4 if scaling == "linear" else np.ones(4)
    expected = times * [(1 - at / 40).sum() for at in starts]
    assert grow.moves == pytest.approx(list(expected), rel=1e-4)
    assert int(model.optimizer.iterations.numpy()) == 10 + 5 + 2 + 10
    assert float(model.optimizer.learning_rate) == pytest.approx(float(schedule(27)))


@pytest.mark.parametrize("rate", [0.1, lambda: 0.1])
def test_rates_that_count_no_steps_need_no_clock(rate):
    clock, rate_at = timed(rate)
    clock.set_pace(7.0)
    assert rate_at(5) == pytest.approx(0.1)


def test_clock_of_a_wrapped_optimizer():
    schedule = schedules.CosineDecay(0.1, 10)
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(schedule))
    clock = SampleClock(optimizer)
    clock.set_pace(10.0)
    optimizer.inner_optimizer.iterations.assign(1)
    assert float(optimizer.inner_optimizer.learning_rate) == pytest.approx(0.0)
    clock.remove()
    assert float(optimizer.inner_optimizer.learning_rate) == pytest.approx(float(schedule(1)))
