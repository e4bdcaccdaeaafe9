"""Bytes of the .tflite file that a model would make, from its graph alone."""

from __future__ import annotations

from collections.abc import Iterable

import keras

from keras_dynhp.costs import lowering_rules  # noqa: F401  (registers the rules)
from keras_dynhp.costs.lowering import Constant, DeviceGraph, lower

# The layout of the file as `export_tflite` writes it: a FlatBuffer in which equal vectors and equal
# tables are written once, and small ones fill the gaps before large ones. A vector is a length and
# its elements; a table is an offset to its field list and its fields; a table in a list costs
# another offset.
_ITEM = {
    "int8": {"weight": 1, "bias": 4, "index": 4},
    "int16x8": {"weight": 1, "bias": 8, "index": 4},
    None: {"weight": 4, "bias": 4, "index": 4},
}
BYTES_PER_WEIGHT = {quantize: items["weight"] for quantize, items in _ITEM.items()}
BYTES_PER_BIAS = {quantize: items["bias"] for quantize, items in _ITEM.items()}
# Two scales for each channel of a convolution: the kernel's and the bias's.
BYTES_PER_CHANNEL_SCALE = 8
# A zero point for each channel, written once for all kernels and biases with as many channels.
BYTES_PER_CHANNEL_ZERO_POINT = 8

_OFFSET = 4
_FILE = 300
_OPERATOR_CODE = 20
_OPERATOR = 24
_COMPUTED_TENSOR = 16
_CONSTANT_TENSOR = 20
_QUANTIZATION = 12
_BUFFER = 8
_WORD = 4
_ALIGNMENT = 16
# Equal options are one table: those of each kind, with and without an activation.
_OPTIONS = {
    "CONV_2D": 16,
    "DEPTHWISE_CONV_2D": 20,
    "TRANSPOSE_CONV": 16,
    "MAX_POOL_2D": 24,
    "AVERAGE_POOL_2D": 24,
    "RESHAPE": 0,
}
_COMMON_OPTIONS = 8


def estimate_flash(model: keras.Model, quantize: str | None = "int8") -> int:
    """Bytes of the file that `export_tflite` would write, without converting.

    Within 3% of the real file over LeNet-300-100, LeNet-5, ResNet-8 and DS-CNN, dense and 4 and
    10 times smaller (int8).

    Args:
        model: a built Sequential or Functional model with fixed shapes.
        quantize: as for `export_tflite`.

    Raises:
        ValueError: for a graph that cannot be read, or an unknown `quantize`.

    Example:

    >>> import keras
    >>> from keras_dynhp.costs.flash import estimate_flash
    >>> model = keras.Sequential([keras.Input((100,)), keras.layers.Dense(100)])
    >>> 10_000 < estimate_flash(model) < 12_000
    True
    """
    if quantize not in _ITEM:
        raise ValueError(f"quantize is one of {tuple(_ITEM)}; received {quantize!r}.")
    return flash_of(lower(model), quantize)


def flash_of(device: DeviceGraph, quantize: str | None = "int8") -> int:
    """Bytes of the file of a lowered graph."""
    constants = [constant for op in device.operators for constant in op.constants]
    values = [*device.inputs, *(value for op in device.operators for value in op.outputs)]
    total = _FILE + _OPERATOR_CODE * len({op.kind for op in device.operators})
    total += sum(_operator(op) for op in device.operators)
    options = {(op.kind, op.fused) for op in device.operators}
    total += sum(_OPTIONS.get(kind, _COMMON_OPTIONS) for kind, _ in options)
    total += (_OFFSET + _COMPUTED_TENSOR) * len(values)
    total += (_OFFSET + _CONSTANT_TENSOR) * len(constants)
    shapes = {value.shape for value in values} | {constant.shape for constant in constants}
    total += sum(_vector(len(shape), 4) for shape in shapes)
    total += sum(_stored(constant, _ITEM[quantize]) for constant in constants)
    if quantize:
        total += _scales(constants) + len(values) * (_QUANTIZATION + _vector(1, 4))
        total += _vector(1, 8) * (1 + sum(1 for op in device.operators if not _shares_zero(op)))
    return -(-total // _ALIGNMENT) * _ALIGNMENT


def _operator(op) -> int:
    inputs = _vector(len(op.inputs) + len(op.constants), 4)
    return _OFFSET + _OPERATOR + inputs + _vector(len(op.outputs), 4)


def _shares_zero(op) -> bool:
    """Whether the zero point is the usual -128 of values that are never negative."""
    return op.fused or op.kind in ("SOFTMAX", "LOGISTIC", "RELU", "RELU6", "RESHAPE", "MAX_POOL_2D")


def _stored(constant: Constant, items: dict[str, int]) -> int:
    size = constant.size * items[constant.role]
    return _OFFSET + _BUFFER + _vector(-(-size // _WORD) * _WORD, 1)


def _scales(constants: Iterable[Constant]) -> int:
    """Scales of every constant, and one vector of zero points for each number of channels."""
    quantized = [constant for constant in constants if constant.scales]
    scales = sum(_QUANTIZATION + _vector(constant.scales, 4) for constant in quantized)
    return scales + sum(_vector(count, 8) for count in {c.scales for c in quantized})


def _vector(count: int, item: int) -> int:
    return 4 + count * item
