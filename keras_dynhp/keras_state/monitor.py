"""Private facts about metrics: which way is better."""

from __future__ import annotations

import keras
from keras.src.callbacks.monitor_callback import MonitorCallback

__all__ = ["is_higher_better"]


def is_higher_better(model: keras.Model, monitor: str) -> bool:
    """Whether a metric of a model that has trained for an epoch gets better by growing.

    Raises:
        ValueError: from Keras, which doesn't know.
    """
    callback = MonitorCallback(monitor)
    callback.set_model(model)
    callback._set_monitor_op()
    return callback.monitor_op is keras.ops.greater
