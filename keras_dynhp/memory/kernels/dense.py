"""Matrix products."""

from __future__ import annotations

import math

from keras import layers

from keras_dynhp.memory.kernels.elementwise import fused
from keras_dynhp.memory.kernels.registry import Step, layer_rule, size_of
from keras_dynhp.memory.tape import Size, Tensor, itemsize


@layer_rule(layers.Dense)
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


@layer_rule(layers.Embedding)
def _embedding(step: Step, layer, call, inputs):
    """A lookup: the gradient of the table is that of the rows that were looked up.

    It stays so until the optimizer spreads it out to the whole table (see `updates`). That of a
    table that is multiplied with instead, as `ReversibleEmbedding` can, is a table at once.
    """
    tape = step.tape
    w = tape.weight(layer.embeddings)
    size = Size(0, call.output.size * itemsize(w.dtype))
    y = tape.op("Gather", [*inputs, w], size)

    def backward(dy):
        if inputs[0].trains:
            tape.send(w, tape.op("UnsortedSegmentSum", [dy, *inputs], w.size))
            return
        rows = tape.op("Reshape", [dy], size, in_place=True)
        rows.sliced = True
        tape.send(w, rows)

    tape.on_gradient(y, backward)
    if size == size_of(call.output):
        return [y]
    cast = tape.op("Cast", [y], size_of(call.output))  # of the rows, not of the table
    tape.on_gradient(cast, lambda dy: tape.send(y, tape.op("Cast", [dy], size)))
    return [cast]


@layer_rule(layers.EinsumDense)
def _einsum_dense(step: Step, layer, call, inputs):
    y = project(step, layer, inputs[0], size_of(call.output))
    return [fused(step, layer.activation, y)]


def project(step: Step, layer, x: Tensor, size: Size) -> Tensor:
    """A product with a kernel over any axes.

    Keras makes it a batched product, whose gradient of the kernel is made for each sample and then
    added up.
    """
    tape = step.tape
    w = tape.weight(layer.kernel, layer.compute_dtype)
    y = tape.op("BatchMatMul", [x, w], size)

    def backward(dy):
        if x.trains:
            tape.send(x, tape.op("BatchMatMul", [dy, w], x.size))
        if w.trains:
            apart = tape.op("BatchMatMul", [x, dy], Size(0, w.size.fixed))
            tape.send(w, tape.op("Sum", [apart], w.size))

    tape.on_gradient(y, backward)
    add_bias(step, layer, y)
    return y
