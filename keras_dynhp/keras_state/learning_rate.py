"""Private facts about optimizers: where their schedule is, and where the rate meets the step."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from keras_dynhp.keras_state.optimizer import optimizer_tree

__all__ = [
    "current_rate",
    "raw_iterations",
    "scale_learning_rate",
    "schedule_of",
    "time_schedule_by",
]


def current_rate(optimizer: keras.optimizers.Optimizer) -> float:
    """The learning rate of the moment; of several optimizers that of the first.

    A `MultiOptimizer` refuses to tell a rate: it has none of its own.

    Example:

    >>> current_rate(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5)))
    0.5
    """
    leaf = next(node for node in optimizer_tree(optimizer) if len(optimizer_tree(node)) == 1)
    # In float64, since NumPy can't take a tensor of bfloat16.
    return float(keras.ops.convert_to_numpy(keras.ops.cast(leaf.learning_rate, "float64")))


def schedule_of(
    optimizer: keras.optimizers.Optimizer,
) -> keras.optimizers.schedules.LearningRateSchedule | None:
    """The schedule an optimizer was given; None where its rate is a number or a function.

    The public `optimizer.learning_rate` is the value of the moment.
    """
    given = optimizer._learning_rate
    is_schedule = isinstance(given, keras.optimizers.schedules.LearningRateSchedule)
    return given if is_schedule else None


def scale_learning_rate(
    optimizer: keras.optimizers.Optimizer, factor: tf.Variable
) -> Callable[[], None]:
    """Multiply the learning rate by a factor on its way from the optimizer into its steps.

    Keras reads the rate once in each `apply` and hands it to `_backend_update_step`, which makes
    the steps of all variables. A factor there is seen by nobody who reads or sets the rate, and
    hooks of `update_step` may come and go meanwhile.

    Args:
        optimizer: one that updates variables itself, not a wrapper.
        factor: read in each step.

    Returns:
        A function that takes the factor away; functions traced before go on reading it. Another
        factor takes the place of one that an interrupted `fit` has left.
    """
    own = type(optimizer)._backend_update_step.__get__(optimizer)

    def scaled(gradients, variables, learning_rate):
        own(gradients, variables, keras.ops.multiply(learning_rate, factor))

    vars(optimizer)["_backend_update_step"] = scaled

    def remove() -> None:
        vars(optimizer).pop("_backend_update_step", None)

    return remove


def time_schedule_by(
    optimizer: keras.optimizers.Optimizer, position: Callable[[tf.Tensor], tf.Tensor]
) -> Callable[[], None]:
    """Let an optimizer's schedule stand where a function of the iterations says.

    Keras asks `_get_current_learning_rate` for each step's rate, and for what
    `optimizer.learning_rate` shows. The schedule itself stays the user's: configurations and saved
    files have it as it was given.

    Args:
        optimizer: one that updates variables itself, not a wrapper.
        position: from the number of iterations to the argument of the schedule.

    Returns:
        A function that lets the schedule go by iterations again; functions traced before go on.
    """
    own = type(optimizer)._get_current_learning_rate.__get__(optimizer)

    def current_learning_rate():
        schedule = schedule_of(optimizer)
        return own() if schedule is None else schedule(position(optimizer._iterations))

    vars(optimizer)["_get_current_learning_rate"] = current_learning_rate

    def remove() -> None:
        vars(optimizer).pop("_get_current_learning_rate", None)

    return remove


def raw_iterations(optimizer: keras.optimizers.Optimizer) -> int:
    """How many steps an optimizer has counted, those that only accumulate gradients included.

    The public `iterations` counts updates; schedules are asked with this count.
    """
    return int(optimizer._iterations.numpy())
