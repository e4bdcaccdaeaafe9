"""Each figure of a `DeviceReport`, from the file and from the runtimes that are installed."""

from __future__ import annotations

import contextlib
from collections import Counter

import keras
import numpy as np

from keras_dynhp.export import flatbuffer, litert, tflm
from keras_dynhp.export.data import Samples
from keras_dynhp.export.report import Agreement, Fidelity, Operator, TensorInfo

# Invariant 7 is about at least this many samples, where there are so many.
AGREEMENT_SAMPLES = 200
# A sample counts as clipped that leaves the range of a quantized input by this share of it.
_CLIPPED = 0.1


def operators(content: bytes) -> list[Operator]:
    """The operators of a file with their versions and how often each is used."""
    model = flatbuffer.read(content)
    uses = Counter(
        (flatbuffer.operator_name(model, operator), model.operatorCodes[operator.opcodeIndex])
        for subgraph in model.subgraphs
        for operator in subgraph.operators or []
    )
    return sorted(
        (Operator(name, code.version, count) for (name, code), count in uses.items()),
        key=lambda operator: operator.name,
    )


def interface(content: bytes) -> tuple[list[TensorInfo], list[TensorInfo]]:
    """Inputs and outputs of a file."""
    subgraph = flatbuffer.read(content).subgraphs[0]
    return (
        [_info(subgraph.tensors[index]) for index in subgraph.inputs],
        [_info(subgraph.tensors[index]) for index in subgraph.outputs],
    )


def _info(tensor) -> TensorInfo:
    shape = tuple(int(n) for n in ([] if tensor.shape is None else tensor.shape))
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None:
        return TensorInfo(shape, flatbuffer.type_name(tensor))
    scale, zero = float(quantization.scale[0]), int(quantization.zeroPoint[0])
    return TensorInfo(shape, flatbuffer.type_name(tensor), scale, zero)


def fidelity(content: bytes, model: keras.Model, samples: Samples) -> Fidelity:
    """The file on LiteRT against the Keras model."""
    made = litert.run(litert.make_interpreter(content), samples.inputs)
    wanted = _predict(model, samples)
    worst, spread = float(np.abs(made - wanted).max()), float(np.ptp(wanted))
    if samples.labels is None:
        return Fidelity(len(samples), worst, spread)
    # One output value counts as the second class: a probability from 0.5 up, a logit from 0.
    threshold = 0.5 if wanted.min() >= 0 and wanted.max() <= 1 else 0.0
    accuracies = (_accuracy(outputs, samples.labels, threshold) for outputs in (wanted, made))
    return Fidelity(len(samples), worst, spread, *accuracies)


def clipped(content: bytes, samples: Samples) -> list[str]:
    """Says of each quantized input how many samples reach far outside what it can hold."""
    said = []
    for number, (info, values) in enumerate(zip(interface(content)[0], samples.inputs)):
        if not info.scale:
            continue
        limits = np.iinfo(info.dtype)
        low, high = (info.scale * (edge - info.zero_point) for edge in (limits.min, limits.max))
        margin = _CLIPPED * (high - low)
        flat = values.reshape(len(values), -1)
        outside = (flat.min(axis=1) < low - margin) | (flat.max(axis=1) > high + margin)
        if outside.any():
            said.append(
                f"{int(outside.sum())} of {len(values)} samples of input {number} are clipped: "
                f"they reach from {flat.min():.6g} to {flat.max():.6g}, and calibration saw "
                f"{low:.6g} to {high:.6g}"
            )
    return said


def _predict(model: keras.Model, samples: Samples, batch: int = 128) -> np.ndarray:
    """First output in float32, without touching the model's own predict function."""
    parts = []
    for begin in range(0, len(samples), batch):
        inputs = [values[begin : begin + batch] for values in samples.inputs]
        if len(inputs) == 1:
            outputs = model(inputs[0], training=False)
        else:
            outputs = model(keras.tree.pack_sequence_as(model.input, inputs), training=False)
        parts.append(keras.ops.convert_to_numpy(keras.tree.flatten(outputs)[0]))
    outputs = np.concatenate(parts).astype("float32")
    bad = ~np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1)
    if bad.any():
        raise ValueError(
            f"the model's output is NaN or infinite for {int(bad.sum())} of {len(outputs)} "
            f"samples, the first of them sample {int(bad.argmax())}: it is not fit for a device."
        )
    return outputs


def _accuracy(outputs: np.ndarray, labels: np.ndarray, threshold: float) -> float | None:
    """Share of right classes; None where labels are no classes, but values to come near."""
    labels, classes = np.asarray(labels), max(2, outputs.shape[-1])
    if labels.dtype.kind not in "biuf":
        return None
    if outputs.shape[-1] == 1:
        guesses = outputs[..., 0] >= threshold
    else:
        guesses = outputs.argmax(axis=-1)
        if labels.shape == outputs.shape:
            if not ((labels >= 0).all() and np.allclose(labels.sum(axis=-1), 1, atol=1e-3)):
                return None
            labels = labels.argmax(axis=-1)
    labels = labels.reshape(labels.shape[0], -1)
    guesses = guesses.reshape(guesses.shape[0], -1)
    if labels.shape != guesses.shape or not np.isin(labels, np.arange(classes)).all():
        return None
    return float((guesses == labels).mean())


def agreement(path: str, samples: Samples, arena_bytes: int) -> Agreement:
    """TensorFlow Lite Micro against the LiteRT interpreter, in quantization steps if there are.

    LiteRT computes with its reference kernels, from which TensorFlow Lite Micro's were made, and
    with its own ones, and the nearer result counts: the reference ones of LiteRT 2.3 lack an ELU
    and get the SUM of int8 wrong, the others round halves differently, which layers add up.
    """
    with open(path, "rb") as file:
        content = file.read()
    interpreter = litert.make_interpreter(content, "own")
    given = [
        litert.quantize(values, details)
        for details, values in zip(interpreter.get_input_details(), samples.inputs)
    ]
    got = tflm.run(path, given, arena_bytes).astype(np.float64)
    results = [litert.run_raw(interpreter, given)]
    with contextlib.suppress(ValueError):  # of an operator without such a kernel
        results.append(litert.run_raw(litert.make_interpreter(content, "reference"), given))
    differences = [np.abs(got - expected.astype(np.float64)) for expected in results]
    difference = min(differences, key=lambda one: (one.max(), one.mean()))
    unit = "quantization step(s)" if np.issubdtype(results[0].dtype, np.integer) else "in value"
    worst, scale = float(difference.max()), interpreter.get_output_details()[0]["quantization"][0]
    in_value = worst * scale if scale else worst
    return Agreement(len(samples), worst, unit, float((difference == 0).mean()), in_value)
