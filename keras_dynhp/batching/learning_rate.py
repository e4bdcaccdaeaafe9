"""What a batch of another size does to the learning rate, and to where its schedule stands."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_dynhp.batching.data import FitData
from keras_dynhp.keras_state.learning_rate import (
    raw_iterations,
    scale_learning_rate,
    time_schedule_by,
)
from keras_dynhp.keras_state.optimizer import optimizer_tree

__all__ = ["SCALINGS", "BatchRates", "RateFactor", "SampleClock", "scaled_learning_rate"]

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


class SampleClock:
    """Lets an optimizer's learning rate schedule go by samples where the batch size changes.

    A schedule counts steps, and larger batches make fewer of them: what was to end with the
    training would then stop half way. With this clock, a step of twice the batch moves the
    schedule by two. The optimizer's own count of iterations, with which Adam corrects its moments,
    is left alone, and so is the schedule: the clock stands between the two, and a saved optimizer
    knows nothing of it. A rate that is a number or a function of no arguments is left alone.

    Make it before the train function is traced; a change of pace needs no new trace.

    Args:
        optimizer: whose schedule to time; of a wrapper, those of the optimizers inside it.

    Example:

    >>> halving = keras.optimizers.schedules.ExponentialDecay(1.0, 10, 0.5)
    >>> optimizer = keras.optimizers.SGD(halving)
    >>> clock = SampleClock(optimizer)
    >>> clock.set_pace(2.0)  # from now on, batches of twice the size
    >>> optimizer.iterations.assign(5) is None or float(optimizer.learning_rate)
    0.5
    >>> clock.remove()
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer) -> None:
        nodes = [node for node in optimizer_tree(optimizer) if len(optimizer_tree(node)) == 1]
        self._optimizer = nodes[0]
        # Origin, position there, pace. In float64: training may be longer than float32 can count.
        self._state = tf.Variable([0.0, 0.0, 1.0], trainable=False, dtype="float64")
        self._removals = [time_schedule_by(node, self._position) for node in nodes]

    def _position(self, iterations):
        origin, position, pace = tf.unstack(self._state.read_value())
        now = position + (tf.cast(iterations, "float64") - origin) * pace
        # Whole steps, as Keras counts them: a schedule may look its rates up in a table.
        return tf.cast(tf.round(now), iterations.dtype)

    @property
    def position(self) -> float:
        """Where the schedule stands."""
        origin, position, pace = self._state.numpy()
        return float(position + (raw_iterations(self._optimizer) - origin) * pace)

    def set_pace(self, pace: float) -> None:
        """Let the schedule move by `pace` for each step of the training from now on.

        Args:
            pace: steps of the schedule per step; samples per step over those of the batch size
                that the schedule was made for.
        """
        self._state.assign([raw_iterations(self._optimizer), self.position, pace])

    def get_state(self) -> list[float]:
        """Where the schedule stands and how fast it moves, as plain values."""
        return [float(value) for value in self._state.numpy()]

    def set_state(self, state: list[float]) -> None:
        """Go on from `get_state`."""
        self._state.assign(state)

    def remove(self) -> None:
        """Let the schedule go by the optimizer's iterations again."""
        for remove in self._removals:
            remove()


class BatchRates:
    """Keeps the learning rate in step with a batch size that changes while `fit` runs.

    A schedule goes on by samples (`SampleClock`); the rate grows with the batch as its rule says
    (`RateFactor`), from the batch size that `fit` was given, which the user's rate is for.

    Make it before the train function is traced.

    Args:
        optimizer: the model's.
        scaling: `"none"`, `"linear"` or `"sqrt"`.
        requested: the batch size that `fit` was given.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer, scaling: str, requested: int) -> None:
        self._scaling, self._requested = scaling, requested
        self._clock = SampleClock(optimizer)
        self._factor = None if scaling == "none" else RateFactor(optimizer)

    def follow(self, data: FitData) -> None:
        """Suit the batch size of the next epoch."""
        self._clock.set_pace(data.pace)
        if self._factor is not None:
            # A batch of more samples than there are holds those that there are.
            most = data.num_samples or max(self._requested, data.batch_size)
            sizes = min(self._requested, most), min(data.batch_size, most)
            self._factor.value = scaled_learning_rate(1.0, *sizes, self._scaling)

    def get_state(self) -> list[float]:
        """Where schedules stand, as plain values."""
        return self._clock.get_state()

    def set_state(self, state: list[float]) -> None:
        """Go on from `get_state`."""
        self._clock.set_state(state)

    def remove(self) -> None:
        """Give the optimizer its own rates back."""
        self._clock.remove()
        if self._factor is not None:
            self._factor.remove()
