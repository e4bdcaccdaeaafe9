"""Matrix products."""

from __future__ import annotations

import math

from keras import layers

from keras_dynhp.memory.kernels.elementwise import fused
from keras_dynhp.memory.kernels.registry import Step, layer_rule, size_of
from keras_dynhp.memory.tape import Size, Tensor


@layer_rule(layers.Dense, layers.EinsumDense)
def _dense(step: Step, layer, call, inputs):
    x, tape = inputs[0], step.tape
    w = tape.weight(layer.kernel, layer.compute_dtype)
    values = call.output.size
    work = Size(0, 2 * values * math.prod(layer.kernel.shape) // layer.kernel.shape[-1])
    y = tape.op("MatMul", [x, w], size_of(call.output), work=work)

    def backward(dy):
        if x.trains:
            tape.send(x, tape.op("MatMul", [dy, w], x.size, work=work))
        if w.trains:
            tape.send(w, tape.op("MatMul", [x, dy], w.size, work=work))

    tape.on_gradient(y, backward)
    add_bias(step, layer, y)
    return [fused(step, layer.activation, y)]


def add_bias(step: Step, layer, y: Tensor) -> None:
    """A bias added in place: only its gradient is a tensor."""
    bias = getattr(layer, "bias", None)
    if bias is None:
        return
    tape = step.tape
    b = tape.weight(bias, layer.compute_dtype)
    y.trains = y.trains or b.trains

    def backward(dy):
        if b.trains:
            tape.send(b, tape.op("BiasAddGrad", [dy], b.size))
        tape.send(y, dy)

    tape.on_gradient(y, backward)
