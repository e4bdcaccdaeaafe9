"""Each figure of a `DeviceReport`, from the file and from the runtimes that are installed."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import replace

import keras
import numpy as np

from keras_dynhp.export import flatbuffer, litert, structures, tflm
from keras_dynhp.export.data import Samples
from keras_dynhp.export.report import WHOLE, Agreement, Fidelity, Operator, TensorInfo
from keras_dynhp.keras_state import graph

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


def quantization(content: bytes) -> str | None:
    """Whether a file computes with "int8", with "int16x8", or with neither (None)."""
    made = [
        subgraph.tensors[index]
        for subgraph in flatbuffer.read(content).subgraphs
        for operator in subgraph.operators or []
        for index in operator.outputs
    ]
    found = {flatbuffer.type_name(one) for one in made if _info(one).scale}
    return "int16x8" if "int16" in found else "int8" if "int8" in found else None


def interface(content: bytes, model: keras.Model) -> tuple[list[TensorInfo], list[TensorInfo]]:
    """Inputs and outputs of a file in the order in which the file has them.

    Raises:
        ValueError: where the file has others than the model.
    """
    tree = flatbuffer.read(content)
    subgraph = tree.subgraphs[0]
    found = []
    for end, symbols in (("inputs", model.inputs), ("outputs", model.outputs)):
        infos = [_info(subgraph.tensors[index]) for index in getattr(subgraph, end)]
        names = (structures.input_names if end == "inputs" else structures.output_names)(model)
        places = flatbuffer.places(tree, end, names)
        fit = len(infos) == len(symbols) == len(places) and all(
            _fits(infos[place].shape, symbol.shape) for place, symbol in zip(places, symbols)
        )
        if not fit:
            raise ValueError(
                f"the file is not one of {model.name!r}: its {end} have the shapes "
                f"{[info.shape for info in infos]}, the model's {[s.shape for s in symbols]}."
            )
        found.append(infos)
    return found[0], found[1]


def _fits(shape: tuple, wanted: tuple) -> bool:
    """Whether a tensor of a file may be one of a model; the first axis counts samples."""
    pairs = zip(shape[1:], wanted[1:])
    return len(shape) == len(wanted) and all(n == m or m is None for n, m in pairs)


def _info(tensor) -> TensorInfo:
    shape = tuple(int(n) for n in ([] if tensor.shape is None else tensor.shape))
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None:
        return TensorInfo(shape, flatbuffer.type_name(tensor))
    scale, zero = float(quantization.scale[0]), int(quantization.zeroPoint[0])
    return TensorInfo(shape, flatbuffer.type_name(tensor), scale, zero)


def fidelity(content: bytes, model: keras.Model, samples: Samples) -> Fidelity:
    """The file on LiteRT against the Keras model."""
    made = _in_order(
        litert.run(litert.make_interpreter(content), _given(content, model, samples)),
        content,
        model,
    )
    wanted = _predict(model, samples)
    names = _output_names(model)
    whole = [keras.backend.is_int_dtype(tensor.dtype) for tensor in model.outputs]
    off = [
        float((one != other).mean() if exactly else np.abs(one - other).max())
        for one, other, exactly in zip(made, wanted, whole)
    ]
    spreads = [1.0 if exactly else float(np.ptp(one)) for one, exactly in zip(wanted, whole)]
    worst = max(range(len(off)), key=lambda number: off[number] / (spreads[number] or 1e-30))
    unit = WHOLE if whole[worst] else "in value"
    result = Fidelity(len(samples), off[worst], spreads[worst], output=names[worst], unit=unit)
    rates = [
        (*_accuracies(wanted[number], made[number], labels, whole[number]), names[number])
        for number, labels in enumerate(samples.labels or [])
    ]
    rates = [rate for rate in rates if rate[0] is not None]
    if not rates:
        return result
    before, after, name = max(rates, key=lambda rate: rate[0] - rate[1])
    return replace(result, float_accuracy=before, accuracy=after, accuracy_output=name)


def _accuracies(wanted: np.ndarray, made: np.ndarray, labels: np.ndarray | None, whole: bool):
    """Of the Keras model and of the file."""
    if labels is None:
        return None, None
    if whole:  # classes
        return _equal(wanted, labels), _equal(made, labels)
    # One output value counts as the second class: a probability from 0.5 up, a logit from 0.
    threshold = 0.5 if wanted.min() >= 0 and wanted.max() <= 1 else 0.0
    return _accuracy(wanted, labels, threshold), _accuracy(made, labels, threshold)


def _equal(outputs: np.ndarray, labels: np.ndarray) -> float | None:
    """Share of whole numbers that are the labels."""
    labels = np.asarray(labels)
    if labels.dtype.kind not in "biu" or labels.size != outputs.size:
        return None
    return float((outputs == labels.reshape(outputs.shape)).mean())


def _output_names(model: keras.Model) -> list[str | None]:
    """Names for a report, where there are several outputs."""
    names = structures.output_names(model)
    return list(names) if len(names) > 1 else [None]


def _given(content: bytes, model: keras.Model, samples: Samples) -> list[np.ndarray]:
    """The samples in the order of the file's inputs."""
    places = flatbuffer.places(flatbuffer.read(content), "inputs", structures.input_names(model))
    return [samples.inputs[places.index(place)] for place in range(len(places))]


def _in_order(results: list, content: bytes, model: keras.Model) -> list:
    """What a file made, in the order of the model's outputs."""
    names = structures.output_names(model)
    places = flatbuffer.places(flatbuffer.read(content), "outputs", names)
    return [results[place] for place in places]


def clipped(content: bytes, model: keras.Model, samples: Samples) -> list[str]:
    """Says of each quantized input how many samples reach far outside what it can hold."""
    said = []
    given = _given(content, model, samples)
    for number, (info, values) in enumerate(zip(interface(content, model)[0], given)):
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


def _predict(model: keras.Model, samples: Samples, batch: int = 128) -> list[np.ndarray]:
    """Every output in float32, without touching the model's own predict function."""
    parts: list[list[np.ndarray]] = []
    names = _output_names(model)
    struct, _ = graph.structure(graph.functional_of(model))
    for begin in range(0, len(samples), batch):
        inputs = [values[begin : begin + batch] for values in samples.inputs]
        outputs = model(keras.tree.pack_sequence_as(struct, inputs), training=False)
        parts.append([keras.ops.convert_to_numpy(one) for one in keras.tree.flatten(outputs)])
    whole = [np.concatenate(column).astype("float32") for column in zip(*parts)]
    for outputs, name in zip(whole, names):
        bad = ~np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1)
        if bad.any():
            raise ValueError(
                f"the model's output{'' if name is None else f' {name!r}'} is NaN or infinite for "
                f"{int(bad.sum())} of {len(outputs)} samples, the first of them sample "
                f"{int(bad.argmax())}: it is not fit for a device."
            )
    return whole


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


def agreement(path: str, model: keras.Model, samples: Samples, arena_bytes: int) -> Agreement:
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
        for details, values in zip(interpreter.get_input_details(), _given(content, model, samples))
    ]
    runs = [tflm.run(path, given, arena_bytes), litert.run_raw(interpreter, given)]
    with contextlib.suppress(ValueError):  # of an operator without such a kernel
        runs.append(litert.run_raw(litert.make_interpreter(content, "reference"), given))
    details = _in_order(interpreter.get_output_details(), content, model)
    outputs = zip(*(_in_order(results, content, model) for results in runs))
    found = [_apart(*one) for one in zip(outputs, details, _output_names(model))]
    worst = max(found, key=lambda one: one[1])[0]
    values = sum(got.size for got in runs[0])
    equal = sum(
        one.equal * got.size for (one, _), got in zip(found, _in_order(runs[0], content, model))
    )
    return replace(worst, equal=equal / values)


def _apart(results, details: dict, name: str | None) -> tuple[Agreement, float]:
    """How far one output of TensorFlow Lite Micro is off the others, and off for its range."""
    got, *others = (one.astype(np.float64) for one in results)
    scale = details["quantization"][0]
    whole = np.issubdtype(results[0].dtype, np.integer) and not scale
    differences = [np.not_equal(got, one) if whole else np.abs(got - one) for one in others]
    difference = min(differences, key=lambda one: (one.max(), one.mean()))
    worst = float(difference.max())
    equal = float((difference == 0).mean())
    if whole:
        return Agreement(len(got), 1 - equal, WHOLE, equal, 1 - equal, name), 1 - equal
    unit, value = ("quantization step(s)", worst * scale) if scale else ("in value", worst)
    return Agreement(len(got), worst, unit, equal, value, name), worst / (np.ptp(got) or 1.0)
