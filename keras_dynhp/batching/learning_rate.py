"""What a batch of another size does to the learning rate, and to where its schedule stands."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from keras_dynhp.keras_state.learning_rate import scale_learning_rate, schedule_of
from keras_dynhp.keras_state.optimizer import optimizer_tree

__all__ = ["SCALINGS", "RateFactor", "SampleClock", "scaled_learning_rate", "use_sample_clock"]

# Name of a scaling -> power of the batch's growth by which the learning rate grows.
SCALINGS = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}


def scaled_learning_rate(
    learning_rate: float, base_batch_size: int, batch_size: int, scaling: str = "none"
) -> float:
    """The learning rate for a batch of another size.

    Args:
        learning_rate: the one that suits `base_batch_size`.
        base_batch_size: samples in a step, before.
        batch_size: samples in a step, after.
        scaling: `"none"`; `"linear"`: in proportion to the batch (Goyal et al., arXiv 1706.02677);
            `"sqrt"`: to its root, which keeps the variance of the steps (Krizhevsky, arXiv
            1404.5997), and is the rule for Adam (Malladi et al., arXiv 2205.10287).

    Raises:
        ValueError: another `scaling`.

    Example:

    >>> scaled_learning_rate(0.1, 32, 128, "sqrt")
    0.2
    """
    if scaling not in SCALINGS:
        raise ValueError(
            f"The scaling must be one of {', '.join(map(repr, SCALINGS))}. Received: {scaling!r}"
        )
    return learning_rate * (batch_size / base_batch_size) ** SCALINGS[scaling]


class RateFactor:
    """Multiplies the learning rate with which an optimizer makes its steps by a factor.

    The factor acts below everything that sets the rate: a number, a schedule, a function,
    `LearningRateScheduler` and `ReduceLROnPlateau` keep their own rate, `optimizer.learning_rate`
    goes on showing it, and it does not matter which callback comes first. Weight decay, which
    Keras applies before the step, keeps the unscaled rate.

    Make it before the train function is traced; a change of `value` needs no new trace.

    Args:
        optimizer: whose steps to scale; of a wrapper, the optimizers inside it.

    Example:

    >>> variable, optimizer = keras.Variable(1.0), keras.optimizers.SGD(0.25)
    >>> factor = RateFactor(optimizer)
    >>> factor.value = 2.0
    >>> optimizer.apply([keras.ops.ones(())], [variable])
    >>> float(variable.numpy()), float(optimizer.learning_rate.numpy())
    (0.5, 0.25)
    >>> factor.remove()
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer) -> None:
        self._factor = tf.Variable(1.0, trainable=False, name="learning_rate_factor")
        nodes = optimizer_tree(optimizer)
        leaves = [node for node in nodes if len(optimizer_tree(node)) == 1]
        self._removals = [scale_learning_rate(leaf, self._factor) for leaf in leaves]

    @property
    def value(self) -> float:
        """The factor of the steps from now on."""
        return float(self._factor.numpy())

    @value.setter
    def value(self, factor: float) -> None:
        self._factor.assign(factor)

    def remove(self) -> None:
        """Let the optimizer make its own steps again, also in functions traced before."""
        self.value = 1.0
        for remove in self._removals:
            remove()


@keras.saving.register_keras_serializable(package="keras_dynhp")
class SampleClock(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate schedule that goes by samples where the batch size changes.

    A schedule counts steps, and larger batches make fewer of them: what was to end with the
    training would then stop half way. With this clock around it, a step of twice the batch moves
    the schedule by two. The optimizer's own count of iterations, with which Adam corrects its
    moments, is left alone.

    Args:
        schedule: the schedule, in steps of the batch size it was made for.
        origin: the iteration at which `pace` was last set.
        position: where the schedule stood then.
        pace: steps of the schedule per step of the training.

    Example:

    >>> halving = keras.optimizers.schedules.ExponentialDecay(1.0, 10, 0.5)
    >>> clock = SampleClock(halving)
    >>> clock.set_pace(2.0, iterations=10)  # from now on, batches of twice the size
    >>> [float(clock(step)) for step in (0, 10, 15, 20)]
    [2.0, 0.5, 0.25, 0.125]
    """

    def __init__(self, schedule, origin: float = 0.0, position: float = 0.0, pace: float = 1.0):
        self.schedule = schedule
        # Kept in float64: training may be longer than float32 can count.
        start = tf.constant([origin, position, pace], "float64")
        self._state = tf.Variable(start, trainable=False, name="sample_clock")

    def __call__(self, step):
        origin, position, pace = tf.unstack(self._state.read_value())
        now = position + (tf.cast(step, "float64") - origin) * pace
        return self.schedule(tf.cast(now, "float32"))

    @property
    def pace(self) -> float:
        """Steps of the schedule per step of the training."""
        return float(self._state.numpy()[2])

    def position(self, iterations: int) -> float:
        """Where the schedule stands after so many iterations of the optimizer."""
        origin, position, pace = self._state.numpy()
        return float(position + (iterations - origin) * pace)

    def set_pace(self, pace: float, iterations: int) -> None:
        """Let the schedule move by `pace` for each step of the training from now on.

        Args:
            pace: steps of the schedule per step; samples per step over those of the batch size
                that the schedule was made for.
            iterations: of the optimizer, now.
        """
        self._state.assign([float(iterations), self.position(iterations), pace])

    def get_config(self) -> dict:
        """The constructor's arguments."""
        origin, position, pace = (float(value) for value in self._state.numpy())
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {"schedule": schedule, "origin": origin, "position": position, "pace": pace}

    @classmethod
    def from_config(cls, config: dict) -> SampleClock:
        """The clock that `get_config` describes."""
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(**{**config, "schedule": schedule})


def use_sample_clock(
    optimizer: keras.optimizers.Optimizer,
) -> tuple[list[SampleClock], Callable[[], None]]:
    """Put a `SampleClock` around each learning rate schedule of an optimizer.

    A rate that is a number or a function of no arguments does not count steps and is left alone.
    Call it before the train function is traced.

    Returns:
        The clocks, and a function that gives the optimizer its own schedules back.
    """
    clocked = []
    for node in optimizer_tree(optimizer):
        schedule = schedule_of(node) if len(optimizer_tree(node)) == 1 else None
        if schedule is not None:
            clock = SampleClock(schedule)
            node.learning_rate = clock
            clocked.append((node, clock))

    def give_back() -> None:
        for node, clock in clocked:
            if schedule_of(node) is clock:
                node.learning_rate = clock.schedule

    return [clock for _, clock in clocked], give_back
