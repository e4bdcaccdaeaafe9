"""When to prune how much: tiny callables of the training progress."""

from keras_dynhp.schedules.schedule import (
    Constant,
    Cubic,
    Geometric,
    Linear,
    Schedule,
    get,
)

__all__ = ["Constant", "Cubic", "Geometric", "Linear", "Schedule", "get"]
