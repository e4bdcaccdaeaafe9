"""The learning rate beside batches of another size, in real fits and by hand."""

import keras
import numpy as np
import pytest

from keras_dynhp.batching.data import FitData
from keras_dynhp.batching.learning_rate import (
    RateFactor,
    SampleClock,
    scaled_learning_rate,
    use_sample_clock,
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


def test_clock_follows_the_schedule_at_a_pace_of_one():
    schedule = schedules.CosineDecay(0.1, 50)
    clock = SampleClock(schedule)
    assert [float(clock(step)) for step in range(50)] == [
        float(schedule(step)) for step in range(50)
    ]


def test_clock_changes_its_pace_without_a_jump():
    schedule = schedules.PolynomialDecay(1.0, 100, 0.0)  # falls by 0.01 a step
    clock = SampleClock(schedule)
    clock.set_pace(2.0, iterations=10)
    clock.set_pace(0.5, iterations=20)
    values = [float(clock(step)) for step in (0, 10, 20, 40)]
    assert clock.position(40) == 10 + 2 * 10 + 0.5 * 20
    assert values[2:] == pytest.approx([0.7, 0.6])
    assert clock.pace == 0.5


def test_clock_counts_long_trainings():
    clock = SampleClock(schedules.PolynomialDecay(1.0, 100, 0.0))
    clock.set_pace(0.0, iterations=2**40)
    clock.set_pace(1.0, iterations=2**40)
    assert clock.position(2**40 + 3) - clock.position(2**40) == 3


def test_clock_is_saved_and_loaded():
    clock = SampleClock(schedules.ExponentialDecay(0.1, 10, 0.5))
    clock.set_pace(2.0, iterations=10)
    optimizer = keras.optimizers.Adam(clock)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    [restored], give_back = use_sample_clock(again)
    assert restored.schedule.get_config() == clock.get_config()
    give_back()
    for step in (0, 10, 17):
        assert float(again._learning_rate(step)) == float(clock(step))


@pytest.mark.parametrize("how", [{}, {"run_eagerly": True}, {"jit_compile": True}])
def test_schedule_ends_with_the_training_though_the_batch_grows(how):
    """By hand: each step's rate, with the batch going from 4 to 8 to 20 samples."""
    sizes = [4, 8, 20, 4]

    class Grow(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.data = FitData.attach(self.model)
            [self.clock], self.give_back = use_sample_clock(self.model.optimizer)
            self.own = self.data.batch_size
            self.moves, self.last = [], 0.0

        def on_epoch_begin(self, epoch, logs=None):
            self.data.set_batch_size(sizes[epoch])
            iterations = int(self.model.optimizer.iterations.numpy())
            self.clock.set_pace(self.data.pace, iterations)

        def on_epoch_end(self, epoch, logs=None):
            now = float(self.model.get_layer("slide").moved.numpy())
            self.moves.append(self.last - now)
            self.last = now

        def on_train_end(self, logs=None):
            self.data.detach()
            self.give_back()

    schedule = schedules.PolynomialDecay(1.0, 40, 0.0)  # four epochs of ten steps
    model, grow = make_model(schedule, **how), Grow()
    model.fit(X, Y, batch_size=4, epochs=4, verbose=0, callbacks=[grow])
    starts = [10 * epoch + np.arange(0, 10, size / 4) for epoch, size in enumerate(sizes)]
    assert grow.moves == pytest.approx([(1 - at / 40).sum() for at in starts], rel=1e-4)
    assert int(model.optimizer.iterations.numpy()) == 10 + 5 + 2 + 10
    assert model.optimizer.get_config()["learning_rate"]["class_name"] == "PolynomialDecay"


def test_rates_that_count_no_steps_need_no_clock():
    for rate in (0.1, lambda: 0.1):
        clocks, give_back = use_sample_clock(keras.optimizers.SGD(rate))
        assert clocks == []
        give_back()


def test_clock_of_a_wrapped_optimizer():
    schedule = schedules.CosineDecay(0.1, 10)
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(schedule))
    [clock], give_back = use_sample_clock(optimizer)
    assert clock.schedule is schedule
    clock.set_pace(10.0, 0)
    assert float(optimizer.inner_optimizer.learning_rate) == pytest.approx(0.1)
    give_back()
    assert optimizer.inner_optimizer._learning_rate is schedule
