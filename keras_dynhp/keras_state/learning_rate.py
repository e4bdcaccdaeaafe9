"""Private facts about optimizers: where their schedule is, and where the rate meets the step."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

__all__ = ["scale_learning_rate", "schedule_of"]


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
        A function that takes the factor away; functions traced before go on reading it.
    """
    own = optimizer._backend_update_step

    def scaled(gradients, variables, learning_rate):
        own(gradients, variables, keras.ops.multiply(learning_rate, factor))

    vars(optimizer)["_backend_update_step"] = scaled

    def remove() -> None:
        vars(optimizer).pop("_backend_update_step", None)

    return remove
