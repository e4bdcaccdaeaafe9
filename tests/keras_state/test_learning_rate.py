"""Where an optimizer keeps the schedule it was given, and where its rate meets the step."""

import keras
import pytest
import tensorflow as tf

from keras_dynhp.keras_state.learning_rate import (
    current_rate,
    raw_iterations,
    scale_learning_rate,
    schedule_of,
    time_schedule_by,
)


def test_schedule_is_the_one_that_was_given():
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
    optimizer = keras.optimizers.Adam(schedule)
    assert schedule_of(optimizer) is schedule
    other = keras.optimizers.schedules.CosineDecay(0.2, 10)
    optimizer.learning_rate = other
    assert schedule_of(optimizer) is other


@pytest.mark.parametrize("rate", [0.1, lambda: 0.1])
def test_other_rates_are_no_schedule(rate):
    assert schedule_of(keras.optimizers.Adam(rate)) is None


def test_rate_of_the_moment_is_that_of_the_optimizer_inside():
    schedule = keras.optimizers.schedules.ExponentialDecay(1.0, 1, 0.5)
    optimizer = keras.optimizers.SGD(schedule)
    optimizer.iterations.assign(2)
    assert current_rate(optimizer) == 0.25
    assert current_rate(keras.optimizers.LossScaleOptimizer(optimizer)) == 0.25


@pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="this Keras has no MultiOptimizer"
)
def test_rate_of_several_optimizers_is_that_of_the_first():
    first, second = keras.optimizers.SGD(0.5), keras.optimizers.Adam(0.25)
    both = keras.optimizers.MultiOptimizer(lambda v: first if v.path == "a" else second)
    both.build([keras.Variable(1.0, name="a"), keras.Variable(1.0, name="b")])
    with pytest.raises(AttributeError):
        both.learning_rate  # noqa: B018  (why current_rate is there)
    assert current_rate(both) == 0.5


# Of these Keras 3.12's Muon takes no step with TensorFlow at all.
BROKEN = ("Muon",) if keras.__version__.startswith("3.12.") else ()
WRAPPERS = ("LossScaleOptimizer", "MultiOptimizer", "Optimizer")
OPTIMIZERS = [
    kind
    for name, kind in vars(keras.optimizers).items()
    if isinstance(kind, type)
    and issubclass(kind, keras.optimizers.Optimizer)
    and name not in WRAPPERS + BROKEN
]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_every_optimizer_steps_at_the_scaled_rate(kind):
    """As an optimizer of three times the rate would, weight decay apart."""

    def two_steps(rate, factor):
        variable = keras.Variable([[1.0, 2.0], [3.0, -4.0]])
        optimizer = kind(learning_rate=rate, weight_decay=0.0)
        remove = scale_learning_rate(optimizer, tf.Variable(factor))
        for _ in range(2):
            optimizer.apply([keras.ops.array([[0.5, -0.25], [1.0, 0.75]])], [variable])
        remove()
        return variable.numpy()

    assert two_steps(0.01, 3.0) == pytest.approx(two_steps(0.03, 1.0), rel=1e-5)
    assert two_steps(0.01, 3.0) != pytest.approx(two_steps(0.01, 1.0), rel=1e-5)


def test_factor_leaves_the_optimizer_as_it_was():
    optimizer = keras.optimizers.SGD(1.0)
    before = dict(vars(optimizer))
    scale_learning_rate(optimizer, tf.Variable(2.0))()
    assert vars(optimizer) == before


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_every_optimizer_asks_for_its_rate_where_the_clock_stands(kind):
    """As with a schedule that runs twice as fast."""
    schedules = keras.optimizers.schedules

    def two_steps(decay_steps, position):
        variable = keras.Variable([[1.0, 2.0], [3.0, -4.0]])
        optimizer = kind(learning_rate=schedules.ExponentialDecay(0.01, decay_steps, 0.1))
        remove = time_schedule_by(optimizer, position)
        for _ in range(2):
            optimizer.apply([keras.ops.array([[0.5, -0.25], [1.0, 0.75]])], [variable])
        assert raw_iterations(optimizer) == 2
        remove()
        assert "_get_current_learning_rate" not in vars(optimizer)
        return variable.numpy()

    same = two_steps(10, lambda iterations: iterations)
    twice = two_steps(20, lambda iterations: 2 * iterations)
    other = two_steps(20, lambda iterations: iterations)
    assert twice == pytest.approx(same, rel=1e-6)
    assert other != pytest.approx(same, rel=1e-6)
