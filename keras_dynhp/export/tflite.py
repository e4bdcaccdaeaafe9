"""`export_tflite`: a Keras model becomes a .tflite file, and a report of what it costs."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace

import keras
import numpy as np

from keras_dynhp.export import data as samples_of
from keras_dynhp.export import tflm
from keras_dynhp.export.convert import Converted, UnsupportedOperatorError, convert
from keras_dynhp.export.data import Samples
from keras_dynhp.export.device import build_report
from keras_dynhp.export.report import DeviceReport
from keras_dynhp.keras_state import graph

# Above this many multiply-accumulates the agreement check of an export takes longer than some
# ten seconds (TensorFlow Lite Micro's reference kernels do half a thousand million a second).
_AGREEMENT_MACS = 5_000_000_000

QUANTIZATIONS = (None, "int8", "int16x8")


def export_tflite(
    model: keras.Model,
    path: str,
    quantize: str | None = None,
    representative_data=None,
) -> DeviceReport:
    """Write a model as a .tflite file for TensorFlow Lite Micro, and report what it costs.

    The file takes a batch of one, has builtin operators only, and is the same to the byte
    whenever it is made from the same model and data. It appears at `path` when it is complete and
    TensorFlow Lite Micro (where installed) has run it; otherwise nothing appears. Half-precision
    models are exported in float32; loops over time are unrolled where they are quantized or return
    every step.

    Args:
        model: a built Sequential or Functional Keras 3 model. A length that its inputs leave open
            becomes that of the samples.
        path: the file to write.
        quantize: None keeps float32; "int8" makes weights, activations, input and output int8;
            "int16x8" int8 weights and int16 activations, input and output.
        representative_data: samples that calibrate the quantization, 100 at least: whatever
            `model.fit` takes as x. That is an array; a list or dict of arrays for several inputs;
            a `tf.data.Dataset`, `keras.utils.PyDataset` or generator of x, `(x, y)` or
            `(x, y, weight)`. The first 1,000 samples are read. With y (classes) the report has
            accuracies.

    Returns:
        A `DeviceReport`.

    Raises:
        ValueError: for what cannot be exported: unknown shapes, missing or bad samples, weights
            that are not finite; `UnsupportedOperatorError` (a `ValueError`) names operator and
            layer.
        TypeError: where the model is no Keras 3 model or the data no samples.
        OSError: where `path` cannot be written; known before the work begins.

    Example:

    >>> import keras, numpy as np, os, tempfile
    >>> from keras_dynhp.export.tflite import export_tflite
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> path = os.path.join(tempfile.mkdtemp(), "model.tflite")
    >>> x = np.random.default_rng(0).normal(size=(200, 8))
    >>> report = export_tflite(model, path, quantize="int8", representative_data=x)
    >>> report.flash_bytes == os.path.getsize(path), report.macs
    (True, 32)
    """
    check_graph(model)
    if quantize not in QUANTIZATIONS:
        raise ValueError(f"quantize is one of {QUANTIZATIONS}; received {quantize!r}.")
    if quantize and representative_data is None:
        raise ValueError(
            f"quantize={quantize!r} needs representative_data: a few hundred samples from which "
            "the ranges of the activations are read."
        )
    check_place(path)
    samples = None
    if representative_data is not None:
        samples = samples_of.read_samples(model, representative_data)
    check_model(model, samples)
    doubts = samples_of.warn_about(samples) if quantize else []

    def make() -> Converted:
        return convert(model, quantize, samples)

    report = write_and_report(path, make, model, samples)
    return replace(report, notes=doubts + report.notes)


def write_and_report(
    path: str, make: Callable[[], Converted], model: keras.Model, samples: Samples | None
) -> DeviceReport:
    """Write what `make` converts, and report; whether `path` can be written is known before.

    Raises:
        UnsupportedOperatorError: where TensorFlow Lite Micro refuses the file; nothing is written.
        OSError: where `path` cannot be written.
    """
    with _written_whole(path) as temporary:
        converted = make()
        with open(temporary, "wb") as file:
            file.write(converted.content)
        report = _report(temporary, converted, model, samples)
    islands = _islands(converted.operators) if report.quantize else []
    notes = [*converted.notes, *islands, *report.notes]
    return replace(report, path=os.fspath(path), notes=notes)


def check_graph(model) -> None:
    """Raise for what has no Keras 3 graph."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            "export_tflite takes a Keras 3 model (keras.Model); received "
            f"{type(model).__module__}.{type(model).__name__}."
        )
    if graph.functional_of(model) is None:
        raise ValueError(
            f"{model.name!r} ({type(model).__name__}) has no graph to export: only Sequential and "
            "Functional models, built and without a call() of their own, can be. Write it as one "
            "with keras_dynhp.to_functional(model, keras.Input(shape))."
        )


def check_model(model, samples: Samples | None = None) -> None:
    """Raise for what can be no file: no Keras 3 graph, open lengths, weights not finite."""
    check_graph(model)
    for tensor in model.inputs:
        if None in tensor.shape[1:] and samples is None:
            raise ValueError(
                f"the input {tensor.name!r} has the dynamic shape {tensor.shape}: a device needs "
                "fixed sizes. Give export_tflite representative_data, whose lengths it takes, or "
                "build the model with keras.Input of a full shape."
            )
    for weight in model.weights:
        if "float" in weight.dtype and not np.isfinite(keras.ops.convert_to_numpy(weight)).all():
            raise ValueError(
                f"the weight {weight.path!r} has values that are NaN or infinite: the training "
                "went wrong before this export."
            )


def check_place(path: str) -> None:
    """Raise where a file cannot be written.

    Raises:
        OSError: saying what is in the way.
    """
    os.unlink(_temporary(path))


def _temporary(path: str) -> str:
    """An empty file beside `path`, which it can take the place of."""
    path = os.path.abspath(os.fspath(path))
    folder = os.path.dirname(path)
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path!r} is a directory: give the name of a file to write.")
    try:
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=".export-", suffix=".tflite")
    except OSError as error:
        raise type(error)(
            error.errno, f"cannot write into {folder!r} ({error.strerror}): choose another path"
        ) from error
    os.close(handle)
    return temporary


@contextlib.contextmanager
def _written_whole(path: str):
    """A temporary file beside `path` that takes its place at the end, or leaves no trace."""
    temporary = _temporary(path)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _report(path: str, converted, model, samples) -> DeviceReport:
    try:
        return build_report(path, converted.content, model, samples, _AGREEMENT_MACS)
    except tflm.MicroRuntimeError as error:
        raise named_refusal(error, converted) from error


def named_refusal(error: tflm.MicroRuntimeError, converted: Converted) -> UnsupportedOperatorError:
    """What TensorFlow Lite Micro refuses, traced to the layer it came from."""
    # The runtime does not say in which subgraph it counts.
    found = [
        operator.origin
        for operator in converted.operators
        if (operator.name, operator.number) == (error.operator, error.number)
    ]
    if not found:
        return UnsupportedOperatorError(str(error))
    return UnsupportedOperatorError(
        f"TensorFlow Lite Micro refuses the operator {error.operator} of layer "
        f"{' or '.join(dict.fromkeys(found))}: {error}"
    )


def _islands(operators: list) -> list[str]:
    """Operators of a quantized file that still compute in float32."""
    names = dict.fromkeys(f"{op.name} of {op.origin}" for op in operators if op.floating)
    return [f"no integer form, computed in float32: {'; '.join(names)}"] if names else []
