"""Which rule writes down the kernels of which layer; the rule for layers that none knows."""

from __future__ import annotations

from collections.abc import Callable

from keras_dynhp.costs.walk import Call
from keras_dynhp.costs.walk import Tensor as Symbol
from keras_dynhp.keras_state import graph
from keras_dynhp.memory.machine import Machine
from keras_dynhp.memory.tape import Size, Tape, Tensor, itemsize

_LAYER_RULES: dict[type, Callable] = {}
_OPERATION_RULES: dict[str, Callable] = {}


def layer_rule(*kinds: type) -> Callable:
    """Decorator: the rule for layers of these classes and of classes derived from them.

    A rule is `rule(step, layer, call, inputs)` and returns the list of tensors it makes, written
    on `step.tape`.
    """

    def add(rule):
        _LAYER_RULES.update((kind, rule) for kind in kinds)
        return rule

    return add


def operation_rule(*names: str) -> Callable:
    """Decorator: the rule for bare `keras.ops` operations of these class names."""

    def add(rule):
        _OPERATION_RULES.update((name, rule) for name in names)
        return rule

    return add


class Step:
    """What rules write on: the tape and the machine it is for."""

    def __init__(self, machine: Machine):
        self.tape = Tape()
        self.machine = machine


def write_call(step: Step, call: Call, inputs: list[Tensor]) -> list[Tensor]:
    """Write down one call of an operation; the tensors it makes are returned."""
    wanted = getattr(call.operation, "compute_dtype", None)
    if wanted is not None and getattr(call.operation, "autocast", True):
        inputs = [_cast(step.tape, tensor, wanted) for tensor in inputs]
    made = rule_of(call.operation)(step, call.operation, call, inputs)
    for tensor, symbol in zip(made, call.outputs):
        tensor.shape, tensor.dtype = symbol.shape, symbol.dtype
    return made


def _cast(tape: Tape, tensor: Tensor, wanted: str) -> Tensor:
    """Keras casts what enters a layer to the type that the layer computes in."""
    if tensor.dtype == wanted or "float" not in tensor.dtype:
        return tensor
    factor = itemsize(wanted) / itemsize(tensor.dtype)
    cast = tape.op("Cast", [tensor], tensor.size.times(factor))
    cast.shape, cast.dtype = tensor.shape, wanted
    tape.on_gradient(cast, lambda dy: tape.send(tensor, tape.op("Cast", [dy], tensor.size)))
    return cast


def size_of(symbol: Symbol) -> Size:
    """Bytes of a tensor between two layers."""
    return Size(0, symbol.size * itemsize(symbol.dtype))


def rule_of(operation) -> Callable:
    """The rule for a layer or a bare operation."""
    if graph.has_adapters(operation):
        return unknown  # its kernel is a sum, no weight
    for kind in type(operation).__mro__:
        if kind in _LAYER_RULES:
            return _LAYER_RULES[kind]
    return _OPERATION_RULES.get(graph.bare_operation_name(operation), unknown)


def unknown(step: Step, operation, call: Call, inputs: list[Tensor], kept: int = 0) -> list[Tensor]:
    """What no rule knows: taken to keep what it reads, what it makes, and as much again.

    Its backward pass is taken to need as much again for a moment, and to give every trainable
    weight a gradient.

    Args:
        kept: bytes it keeps besides, for each sample.
    """
    tape = step.tape
    dtype = getattr(operation, "compute_dtype", None)
    weights = [tape.weight(v, dtype) for v in getattr(operation, "trainable_weights", [])]
    made_bytes = sum(size_of(symbol).each for symbol in call.outputs)
    all_bytes = Size(0, sum(tensor.size.each for tensor in inputs) + made_bytes + kept)
    inner = tape.op("Inner", [*inputs, *weights], all_bytes)
    made = [tape.op("Outer", [inner], size_of(symbol)) for symbol in call.outputs]

    def backward(*gradients):
        arrived = [gradient for gradient in gradients if gradient is not None]
        d_inner = tape.op("OuterGrad", [*arrived, *made, inner], all_bytes)
        for tensor in (*weights, *inputs):
            if tensor.trains:
                reads = [d_inner, *inputs, *weights]
                tape.send(tensor, tape.op("InnerGrad", reads, tensor.size))

    tape.on_gradient(made, backward)
    return made
