"""What a trial is told to Keras Tuner: the finished network's figures, and whether they do."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from keras_dynhp.costs.macs import macs_if_known
from keras_dynhp.costs.target import Target
from keras_dynhp.export.tflite import export_tflite

# A trial that misses its target is worse than any that meets it: by this much, and by as much
# again for every time that it is over. Losses and accuracies are far smaller.
PENALTY = 100.0
MEASURED = "measured_"
ON_DEVICE = ("flash", "ram")
_SAMPLES = 100  # that quantization is calibrated with; sizes do not depend on them


def last_epoch(results, objective) -> dict:
    """The metrics of the finished network, whatever `HyperModel.fit` returned.

    Of a History the last epoch counts: the best may be one of the full network. Training memory
    is the most of all epochs.
    """
    if isinstance(results, keras.callbacks.History):
        history = {name: values for name, values in results.history.items() if values}
        metrics = {name: float(values[-1]) for name, values in history.items()}
        if "train_memory" in history:
            metrics["train_memory"] = float(max(history["train_memory"]))
        return metrics
    if isinstance(results, Mapping):
        return {name: float(value) for name, value in results.items()}
    if isinstance(results, (int, float, np.number)):
        return {objective.name if objective else "objective": float(results)}
    raise TypeError(
        "`HyperModel.fit` must return a History, a dict of metrics, or a number. Received: "
        f"{results!r}"
    )


def figures(model: keras.Model, names: Sequence[str], data) -> dict:
    """Sizes of a finished network: `params`, `macs`, and `flash`, `ram` where they are asked for.

    Flash and RAM are those of the int8 file, exported and measured.
    """
    found = {"params": model.count_params()}
    if (macs := macs_if_known(model)) is not None:
        found["macs"] = macs
    if any(name in ON_DEVICE for name in names):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.tflite")
            report = export_tflite(model, path, "int8", _samples(model, data))
        found["flash"] = report.flash_bytes
        if report.ram_bytes is not None:
            found["ram"] = report.ram_bytes
        elif "ram" in names:
            raise ImportError(
                "Measuring RAM runs TensorFlow Lite Micro: pip install "
                '"keras-dynhp[device]", or leave "ram" out of `measure` and `limits`.'
            )
    return {name: float(value) for name, value in found.items()}


def excess(found: Mapping[str, float], target: Target) -> float:
    """By which share the worst figure is over its limit; 0.0 where the target is met."""
    limits = {name: value for name, value in target.get_config().items() if value is not None}
    return max([0.0, *(found[name] / most - 1.0 for name, most in limits.items() if name in found)])


def scored(metrics: dict, objective, missed: float) -> dict:
    """The metrics with `missed`, the share over the target; what misses is scored as such.

    Where the target is missed, each metric that is searched for gets a value worse than any
    network's that meets it, and what was measured stays under `measured_<name>`.
    """
    metrics = {**metrics, "missed": missed}
    if objective is None:
        return metrics
    parts = getattr(objective, "objectives", [objective])
    for part in parts if missed > 0 else ():
        if part.name not in metrics:
            continue
        value = metrics[part.name]
        penalty = PENALTY * (1.0 + missed) * max(1.0, abs(value))
        metrics[MEASURED + part.name] = value
        metrics[part.name] = value - penalty if part.direction == "max" else value + penalty
    # Of several objectives, Keras Tuner looks for their sum among the metrics as well.
    if len(parts) > 1 and objective.has_value(metrics):
        metrics[objective.name] = float(objective.get_value(metrics))
    return metrics


def _samples(model: keras.Model, data):
    """Training data as `export_tflite` takes it; noise where it is of another kind."""
    if isinstance(data, np.ndarray) and len(data) >= _SAMPLES:
        return data[:_SAMPLES]
    generator = np.random.default_rng(0)
    noise = [generator.random((_SAMPLES, *i.shape[1:])).astype("float32") for i in model.inputs]
    return noise[0] if len(noise) == 1 else noise
