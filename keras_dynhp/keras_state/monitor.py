"""Private facts about metrics: which ones a fit will have, and which way is better."""

from __future__ import annotations

import keras
from keras.src.backend.tensorflow.trainer import TFEpochIterator
from keras.src.callbacks.monitor_callback import MonitorCallback

__all__ = ["is_higher_better", "metric_names"]


def metric_names(model: keras.Model, epoch_iterator: TFEpochIterator) -> list[str] | None:
    """From `on_train_begin`: the names of a running fit's training metrics in its logs.

    Keras makes metrics when it traces the first step; this makes them before, from the shapes of
    the data.

    Returns:
        The names; None where they show only after an epoch: the training step is the user's own, or
        the data do not tell their shapes.
    """
    if type(model).train_step is not keras.Model.train_step:
        return None
    try:
        spec = epoch_iterator.data_adapter.get_tf_dataset().element_spec
        model._symbolic_build(data_batch=spec)
        return list(model.get_metrics_result())
    except (ValueError, TypeError, RuntimeError):
        return None  # what is wrong with model or data, `fit` says better itself


def is_higher_better(model: keras.Model, monitor: str) -> bool | None:
    """Whether a metric of a model that `fit` has built gets better by growing; None: not known.

    With several outputs Keras puts the output's name before the metric's, and does not find the
    metric itself then.
    """
    words = monitor.removeprefix("val_").split("_")
    for first in range(len(words)):
        callback = MonitorCallback("_".join(words[first:]))
        callback.set_model(model)
        try:
            callback._set_monitor_op()
        except ValueError:
            continue
        return callback.monitor_op is keras.ops.greater
    return None
