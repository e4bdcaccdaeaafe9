"""A target in bytes, held against the real int8 file and the real arena."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf

from keras_dynhp.costs.target import Target
from keras_dynhp.errors import TargetError
from keras_dynhp.export import tflm
from keras_dynhp.export.convert import convert
from keras_dynhp.export.data import Samples, read_samples
from keras_dynhp.export.measure import AGREEMENT_SAMPLES
from keras_dynhp.export.tflite import check_model, export_tflite, named_refusal
from keras_dynhp.graph.groups import ChannelGroups
from keras_dynhp.keras_state.fit import first_batch, running_fit
from keras_dynhp.pruning.goals import Goals

# How often a network that misses is made smaller: each round knows the device's real figures.
ROUNDS = 4
# Sizes hardly depend on what calibrates them: while training goes on, a few numbers do.
_FEW = 8


class Pruned(Protocol):
    """A network that is being pruned, on one machine or on the server of many."""

    model: keras.Model
    groups: ChannelGroups
    goals: Goals

    @property
    def on_target(self) -> bool: ...

    def prune(self, fraction: float) -> int: ...


class DeviceProof:
    """What a target says in bytes is estimated while pruning; this measures it.

    When training begins, that the network can be exported at all; when pruning arrives, whether
    the real file and arena are small enough, and if not, more neurons go while there are epochs
    left to recover; when training ends, the whole device report.

    Args:
        target: of which `flash` and `ram` matter here; without them nothing is done.
    """

    def __init__(self, target: Target):
        limits = {"flash": target.flash, "ram": target.ram}
        self.limits = {name: int(limit) for name, limit in limits.items() if limit is not None}
        # Those of the network that was last found small enough.
        self._measured_groups: ChannelGroups | None = None

    def begin(self, model: keras.Model) -> None:
        """Before training: refuse what could not be proven at the end.

        Raises:
            ImportError: for `ram` without tflite-micro.
            ValueError: for what `export_tflite` refuses, which names operator and layer.
        """
        if not self.limits:
            return
        if "ram" in self.limits and not tflm.installed():
            raise ImportError(
                "Target(ram=...) is held against the arena that TensorFlow Lite Micro really "
                'needs, and tflite-micro is not installed: pip install "keras-dynhp[device]"'
            )
        self._measured_groups = None
        check_model(model)
        _measure(model)

    def correct(self, network: Pruned) -> int:
        """On arrival: prune on until the real figures are as small; returns how many neurons went.

        It gives up where nothing is left to go: `end` then says by how much the target is missed.
        """
        removed = 0
        for _ in range(ROUNDS if self.limits else 0):
            if network.groups is self._measured_groups or not network.on_target:
                break
            measured = _measure(network.model)
            if not self._missed(measured):
                self._measured_groups = network.groups
                break
            network.goals.correct(network.groups, measured)
            gone = network.prune(1.0)
            if not gone:
                break
            removed += gone
        return removed

    def end(
        self, model: keras.Model, samples_of: Callable[[keras.Model], Samples | None]
    ) -> dict | None:
        """After training: the report of the int8 network.

        Args:
            model: the network as it is.
            samples_of: asked for data to calibrate on; gives None where there is none.

        Raises:
            TargetError: by how much the target is missed.
        """
        if not self.limits:
            return None
        samples = samples_of(model)
        notes = [] if samples else ["calibrated on random numbers: no data could be read here"]
        samples = samples or _any_samples(model, AGREEMENT_SAMPLES)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.tflite")
            report = export_tflite(model, path, "int8", _as_data(samples))
        measured = {"flash": report.flash_bytes}
        if report.ram_bytes is not None:
            measured["ram"] = report.ram_bytes
        missed = self._missed(measured)
        if missed:
            raise TargetError(_by_how_much(model, missed), missed, report)
        return replace(report, notes=notes + report.notes).to_dict()

    def _missed(self, measured: dict[str, int]) -> dict[str, tuple[int, int]]:
        """What is too much: by name the real bytes and the limit."""
        return {
            name: (measured[name], limit)
            for name, limit in self.limits.items()
            if measured[name] > limit
        }


def _measure(model: keras.Model) -> dict[str, int]:
    """Bytes of the int8 file and, where TensorFlow Lite Micro is installed, of its arena."""
    converted = convert(model, "int8", _any_samples(model, _FEW))
    measured = {"flash": len(converted.content)}
    if tflm.installed():
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.tflite")
            with open(path, "wb") as file:
                file.write(converted.content)
            try:
                measured["ram"] = tflm.measure_arena(path)
            except tflm.MicroRuntimeError as error:
                raise named_refusal(error, converted) from error
    return measured


def _by_how_much(model: keras.Model, missed: dict[str, tuple[int, int]]) -> str:
    parts = [
        f"{name} is {real:,} bytes where {limit:,} are allowed, {real - limit:,} "
        f"({100 * (real / limit - 1):.1f}%) too many"
        for name, (real, limit) in missed.items()
    ]
    return (
        f"The int8 network misses its target: {'; '.join(parts)}. The model stays as training left "
        f"it, with {model.count_params():,} parameters. Train for more epochs with the same "
        "callback, which goes on from here, or raise the target."
    )


def _any_samples(model: keras.Model, count: int) -> Samples:
    """Numbers of the inputs' shapes: they calibrate, they mean nothing."""
    random = np.random.default_rng(0)

    def values(tensor):
        shape = (count, *tensor.shape[1:])
        if "float" in tensor.dtype:
            return random.uniform(-1, 1, shape).astype("float32")
        return np.zeros(shape, tensor.dtype)

    return Samples([values(tensor) for tensor in model.inputs])


def samples_of_fit(model: keras.Model) -> Samples | None:
    """Inputs from the data of the running `fit`; None, with a warning, where that fails."""
    fit = running_fit(model)
    x = fit.arguments["x"]
    try:
        if isinstance(x, tf.data.Dataset):
            return Samples(read_samples(model, x, AGREEMENT_SAMPLES).inputs)
        if isinstance(x, keras.utils.PyDataset) or hasattr(x, "__next__"):
            batch = first_batch(fit.epoch_iterator.data_adapter)
            x = keras.utils.unpack_x_y_sample_weight(batch)[0]
        few = keras.tree.map_structure(lambda values: np.asarray(values[:AGREEMENT_SAMPLES]), x)
        return read_samples(model, few, AGREEMENT_SAMPLES)
    except (TypeError, ValueError) as error:
        warnings.warn(
            f"the data of fit cannot calibrate the int8 network ({error}): random numbers do, so "
            "what the report says of its outputs means little.",
            UserWarning,
            stacklevel=2,
        )
        return None


def _as_data(samples: Samples):
    return samples.inputs[0] if len(samples.inputs) == 1 else samples.inputs
