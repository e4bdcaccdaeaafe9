"""Bytes of tensor arena that TensorFlow Lite Micro would need, from the model's graph alone."""

from __future__ import annotations

from dataclasses import dataclass

import keras

from keras_dynhp.costs import lowering_rules  # noqa: F401  (registers the rules)
from keras_dynhp.costs.lowering import DeviceGraph, DeviceOperator, Value, lower

# What TensorFlow Lite Micro 0.dev20261023 (64-bit) keeps in the arena beside the activations,
# fitted to its own allocation records of 41 small networks: no record is missed by more than 16
# bytes. For each tensor, operator, input and output:
_FIXED = 524
_PER_TENSOR = 24
_PER_OPERATOR = 64
_PER_INTERFACE = 96
# and what the kernels prepare, multiplier and shift of every channel (4 bytes each) apart:
_PREPARED = {
    "ADD": 71,
    "AVERAGE_POOL_2D": 71,
    "CONCATENATION": 54,
    "CONV_2D": 108,
    "DEPTHWISE_CONV_2D": 107,
    "FULLY_CONNECTED": 111,
    "GATHER": 22,
    "LOGISTIC": 16,
    "MAXIMUM": 54,
    "MAX_POOL_2D": 72,
    "MEAN": 71,
    "MUL": 52,
    "PAD": 96,
    "PRELU": 28,
    "REDUCE_MAX": 73,
    "RESIZE_BILINEAR": 9,
    "SOFTMAX": 86,
    "SUB": 54,
    "TANH": 16,
    "TRANSPOSE": 0,
    "TRANSPOSE_CONV": 118,
}
_PREPARED_ELSE = 40
# Two tables of 513 int16 that an int16 softmax looks exponentials up in.
_SOFTMAX_TABLES = 2064
_PER_CHANNEL_KERNELS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
# Planning happens in the place of the activations and may need more than they do: bytes for each
# tensor, for each value that is planned, and for a MEAN's own scratch buffers.
_PLANNED_TENSOR = 32
_PLANNED_VALUE = 44
_PLANNED_MEAN = 264
# The least that preparing any operator, and a convolution, needs in that place.
_LEAST, _LEAST_CONVOLUTION = 350, 700
_ALIGNMENT = 16


@dataclass(eq=False)
class Buffer:
    """A stretch of the arena: bytes, and the first and last operator that needs it."""

    bytes: int
    first: int
    last: int
    value: Value | None = None
    source: str = ""
    offset: int = 0


@dataclass(frozen=True)
class Peak:
    """The moment at which the activations need most.

    Attributes:
        bytes: what they need, the planner's gaps among it.
        operator: the Keras operation that runs then.
        tensors: `(Keras operation, bytes)` of each value that is alive then, the largest first;
            an input of the model has the name "input".
    """

    bytes: int
    operator: str
    tensors: list[tuple[str, int]]


def estimate_arena(model: keras.Model, quantize: str | None = "int8") -> int:
    """Bytes of tensor arena that TensorFlow Lite Micro would need, without converting.

    Within 10% of the real arena over LeNet-300-100, LeNet-5, ResNet-8 and DS-CNN, dense and 4 and
    10 times smaller.

    Args:
        model: a built Sequential or Functional model with fixed shapes.
        quantize: as for `export_tflite`.

    Raises:
        ValueError: for a graph that cannot be read, or an unknown `quantize`.

    Example:

    >>> import keras
    >>> from keras_dynhp.costs.arena import estimate_arena
    >>> wide = keras.Sequential([keras.Input((1000,)), keras.layers.Dense(1000)])
    >>> estimate_arena(wide) > 2000
    True
    """
    return arena_of(lower(model), quantize)


def peak_tensors(model: keras.Model, quantize: str | None = "int8") -> Peak:
    """Which values are alive when the activations need most: what pruning for RAM has to attack.

    Raises:
        ValueError: for a graph that cannot be read, or an unknown `quantize`.

    Example:

    >>> import keras
    >>> from keras_dynhp.costs.arena import peak_tensors
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((8, 8, 1)),
    ...         keras.layers.Conv2D(16, 3, name="wide"),
    ...         keras.layers.Conv2D(4, 3, name="narrow"),
    ...     ]
    ... )
    >>> peak_tensors(model).tensors
    [('wide', 576), ('input', 64)]
    """
    buffers = plan(lower(model), _value_bytes(quantize))
    steps = range(max(buffer.last for buffer in buffers) + 1)
    alive = {
        step: [buffer for buffer in buffers if buffer.first <= step <= buffer.last]
        for step in steps
    }
    step = max(steps, key=lambda number: sum(buffer.bytes for buffer in alive[number]))
    largest = sorted(alive[step], key=lambda buffer: -buffer.bytes)
    tensors = [(buffer.source, buffer.bytes) for buffer in largest]
    return Peak(_extent(buffers), operator=_running(buffers, step), tensors=tensors)


def arena_of(device: DeviceGraph, quantize: str | None = "int8") -> int:
    """Bytes of the arena of a lowered graph."""
    buffers = plan(device, _value_bytes(quantize))
    constants = sum(len(op.constants) for op in device.operators)
    tensors = len(buffers) + constants
    kept = _FIXED + _PER_TENSOR * tensors + _PER_OPERATOR * len(device.operators)
    kept += _PER_INTERFACE * (len(device.inputs) + len(device.outputs))
    kept += sum(_PREPARED.get(op.kind, _PREPARED_ELSE) for op in device.operators)
    kinds = [op.kind for op in device.operators]
    if quantize:
        kept += sum(_channel_bytes(op) for op in device.operators)
    if quantize == "int16x8":
        kept += _SOFTMAX_TABLES * kinds.count("SOFTMAX")
    planning = _PLANNED_TENSOR * tensors + _PLANNED_VALUE * len(buffers)
    planning += _PLANNED_MEAN * kinds.count("MEAN")
    convolves = any(kind in _PER_CHANNEL_KERNELS for kind in kinds)
    least = _LEAST_CONVOLUTION if convolves else _LEAST
    return kept + max(_extent(buffers), planning, least)


def plan(device: DeviceGraph, value_bytes: int) -> list[Buffer]:
    """Where TensorFlow Lite Micro's greedy planner puts each value.

    The largest first, of equal ones the last, each into the lowest gap that is free while it lives.
    """
    buffers = _lifetimes(device, value_bytes)
    placed: list[Buffer] = []
    for _, buffer in sorted(enumerate(buffers), key=lambda pair: (-pair[1].bytes, -pair[0])):
        buffer.offset = _lowest_gap(buffer, placed)
        placed.append(buffer)
    return buffers


def _lifetimes(device: DeviceGraph, value_bytes: int) -> list[Buffer]:
    made = {
        value: Buffer(_aligned(value.size * value_bytes), 0, 0, value, "input")
        for value in device.inputs
    }
    scratch = []
    for step, operator in enumerate(device.operators, 1):
        for value in operator.inputs:
            made[value].last = step
        for value in operator.outputs:
            size = _aligned(value.size * value_bytes)
            made[value] = Buffer(size, step, step, value, operator.source)
        if operator.kind == "TRANSPOSE_CONV" and value_bytes < 4:
            size = _aligned(4 * operator.outputs[0].size)
            scratch.append(Buffer(size, step, step, None, operator.source))
    for value in device.outputs:
        made[value].last = len(device.operators)
    return [*made.values(), *scratch]


def _lowest_gap(buffer: Buffer, placed: list[Buffer]) -> int:
    offset = 0
    together = [b for b in placed if b.first <= buffer.last and buffer.first <= b.last]
    for other in sorted(together, key=lambda other: other.offset):
        if offset + buffer.bytes <= other.offset:
            break
        offset = max(offset, other.offset + other.bytes)
    return offset


def _extent(buffers: list[Buffer]) -> int:
    return max(buffer.offset + buffer.bytes for buffer in buffers)


def _running(buffers: list[Buffer], step: int) -> str:
    return next((b.source for b in buffers if b.first == step and b.value is not None), "input")


def _channel_bytes(operator: DeviceOperator) -> int:
    if operator.kind not in _PER_CHANNEL_KERNELS:
        return 0
    channels = max(constant.scales for constant in operator.constants)
    return 2 * _aligned(4 * channels)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _value_bytes(quantize: str | None) -> int:
    sizes = {"int8": 1, "int16x8": 2, None: 4}
    if quantize not in sizes:
        raise ValueError(f"quantize is one of {tuple(sizes)}; received {quantize!r}.")
    return sizes[quantize]
