"""What TensorFlow's converter makes of a Keras graph: device operators, fused and folded.

The estimates of flash and arena need the operators and tensors of the file without making it. One
small rule per layer family says what the converter emits; `register_lowering` teaches another.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import keras

from keras_dynhp.costs.walk import Call, FlatGraph, Tensor, flatten
from keras_dynhp.keras_state import graph

_LAYER_RULES: dict[type, Callable] = {}
_OPERATION_RULES: dict[str, Callable] = {}


@dataclass(eq=False)
class Value:
    """A tensor that an operator makes at run time, or an input: `size` values of its shape."""

    shape: tuple[int, ...]
    producer: DeviceOperator | None = None

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Constant:
    """A tensor stored in the file.

    `role` is "weight" (int8, or the float itself), "bias" (int32) or "index" (int32, not
    quantized); `scales` is how many quantization scales it has, 0 for an index.
    """

    shape: tuple[int, ...]
    role: str
    scales: int = 1

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(eq=False)
class DeviceOperator:
    """One operator of the file: its TensorFlow Lite name, and the Keras operation behind it."""

    kind: str
    source: str
    inputs: list[Value]
    outputs: list[Value]
    constants: list[Constant] = field(default_factory=list)
    fused: bool = False


@dataclass(eq=False)
class DeviceGraph:
    """The operators in the order they run, and the values that enter and leave."""

    operators: list[DeviceOperator]
    inputs: list[Value]
    outputs: list[Value]


def lower(model: keras.Model) -> DeviceGraph:
    """The device operators that the converter makes of a model.

    Raises:
        ValueError: for a subclassed or unbuilt model, or shapes that are not fixed.
    """
    flat = flatten(model)
    lowering = Lowering(flat)
    for call in flat.calls:
        rule = _rule(call.operation)
        results = rule(call.operation, call, lowering)
        results = results if isinstance(results, list) else [results]
        for tensor, value in zip(call.outputs, results):
            lowering.values[tensor] = value
    outputs = [lowering.values[tensor] for tensor in flat.outputs]
    return DeviceGraph(lowering.operators, [lowering.values[t] for t in flat.inputs], outputs)


class Lowering:
    """What a rule works with: the values so far, and ways to add operators."""

    def __init__(self, flat: FlatGraph):
        self.operators: list[DeviceOperator] = []
        self.values: dict[Tensor, Value] = {t: Value(_fixed(t)) for t in flat.inputs}
        self._readers = Counter(tensor for call in flat.calls for tensor in call.inputs)
        self._readers.update(flat.outputs)

    def inputs(self, call: Call) -> list[Value]:
        """The values that a call reads."""
        return [self.values[tensor] for tensor in call.inputs]

    def add(
        self,
        kind: str,
        call: Call,
        inputs: Sequence[Value],
        shape: tuple | None = None,
        constants: Sequence[Constant] = (),
    ) -> Value:
        """A new operator; its output has the shape of the call's, if no other is given."""
        value = Value(_fixed(call.output) if shape is None else tuple(shape))
        operator = DeviceOperator(kind, call.name, list(inputs), [value], list(constants))
        value.producer = operator
        self.operators.append(operator)
        return value

    def only_reader(self, tensor: Tensor) -> bool:
        """Whether one call alone reads a tensor."""
        return self._readers[tensor] == 1

    def reshape(self, call: Call, value: Value, shape: tuple | None = None) -> Value:
        """A RESHAPE; one after another becomes one, and none where the shape is the same."""
        shape = _fixed(call.output) if shape is None else tuple(shape)
        before = value.producer
        alone = self.values.get(call.input) is not value or self.only_reader(call.input)
        if before is not None and before.kind == "RESHAPE" and alone:
            self.operators.remove(before)
            value = before.inputs[0]
        if shape == value.shape:
            return value
        return self.add("RESHAPE", call, [value], shape, [index(len(shape))])

    def scale_and_shift(self, call: Call, size: int) -> Value:
        """A factor and an offset for each channel: folded into a linear kernel, or MUL and ADD."""
        value = self.values[call.input]
        operator = _behind_reshape(value)
        linear = operator and operator.kind in _FOLDING and not operator.fused
        if linear and self.only_reader(call.input):
            if not any(constant.role == "bias" for constant in operator.constants):
                operator.constants.append(bias(size, operator.constants[0].scales))
            return value
        value = self.add("MUL", call, [value], value.shape, [weight(size)])
        return self.add("ADD", call, [value], value.shape, [weight(size)])

    def activate(self, call: Call, value: Value, function, alone: bool = True) -> Value:
        """An activation function on a value: fused where its operator can and none else reads."""
        name = getattr(function, "__name__", None) or type(function).__name__
        name = name.lower()
        if name == "linear":
            return value
        operator = _behind_reshape(value)
        fusing = operator is not None and operator.kind in _FUSING and not operator.fused
        if name in ("relu", "relu6") and fusing and alone:
            operator.fused = True
            return value
        given = value
        for kind in _ACTIVATIONS.get(name, (name.upper(),)):
            read = [value, given] if kind == "MUL" else [value]
            constants = [weight()] if kind in _BY_A_CONSTANT else []
            value = self.add(_BY_A_CONSTANT.get(kind, kind), call, read, value.shape, constants)
        return value


def _behind_reshape(value: Value) -> DeviceOperator | None:
    """What makes a value, seen through the reshape after a one-dimensional convolution."""
    operator = value.producer
    if operator is not None and operator.kind == "RESHAPE":
        return operator.inputs[0].producer
    return operator


def index(*shape: int) -> Constant:
    """A constant of int32 that is no weight: shapes, axes, paddings."""
    return Constant(shape, "index", 0)


def weight(*shape: int, scales: int = 1) -> Constant:
    """A quantized kernel; `scales` as many as it has channels with a scale of their own."""
    return Constant(shape, "weight", scales)


def bias(size: int, scales: int = 1) -> Constant:
    """A bias."""
    return Constant((size,), "bias", scales)


def register_lowering(*kinds: type) -> Callable:
    """Decorator: the rule for layers of these classes and of classes derived from them.

    The rule gets `(layer, call, lowering)` and returns the `Value` (or list of them) that the
    call's output becomes, made by `lowering.add` or one of `lowering.inputs(call)` itself.
    """

    def add(rule):
        _LAYER_RULES.update((kind, rule) for kind in kinds)
        return rule

    return add


def register_operation(*names: str) -> Callable:
    """Decorator: the rule for bare operations of these class names."""

    def add(rule):
        _OPERATION_RULES.update((name, rule) for name in names)
        return rule

    return add


def _rule(operation) -> Callable:
    for kind in type(operation).__mro__:
        if kind in _LAYER_RULES:
            return _LAYER_RULES[kind]
    return _OPERATION_RULES.get(graph.bare_operation_name(operation) or "", _unknown)


def _fixed(tensor: Tensor) -> tuple[int, ...]:
    if None in tensor.shape:
        tensor.size  # noqa: B018  (raises with the tensor's name)
    return tuple(tensor.shape)


_FUSING = {
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "FULLY_CONNECTED",
    "ADD",
    "SUB",
    "MUL",
    "CONCATENATION",
    "AVERAGE_POOL_2D",
    "MAX_POOL_2D",
}
_FOLDING = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"}
_BY_A_CONSTANT = {"SCALE": "MUL", "SHIFT": "ADD"}
_ACTIVATIONS = {
    "gelu": ("SCALE", "MUL", "SHIFT", "MUL", "LOGISTIC", "MUL"),
    "sigmoid": ("LOGISTIC",),
    "silu": ("LOGISTIC", "MUL"),
    "swish": ("LOGISTIC", "MUL"),
    "hard_silu": ("HARD_SWISH",),
    "hard_swish": ("HARD_SWISH",),
    "softplus": ("EXP", "SHIFT", "LOG"),
}


def _unknown(operation, call: Call, lowering: Lowering):
    """One operator for whatever it is, with every weight it holds."""
    constants = [
        weight(*variable.shape) for variable in getattr(operation, "weights", []) if variable.shape
    ]
    value = lowering.add(call.name.upper(), call, lowering.inputs(call), None, constants)
    extra = [Value(_fixed(tensor), value.producer) for tensor in call.outputs[1:]]
    value.producer.outputs.extend(extra)
    return [value, *extra]
