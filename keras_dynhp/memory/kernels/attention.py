"""Attention: scores of every position with every other one, kept twice."""

from __future__ import annotations

import math

from keras import layers

from keras_dynhp.memory.kernels.dense import project
from keras_dynhp.memory.kernels.registry import Step, layer_rule, size_of, unknown
from keras_dynhp.memory.tape import Size, Tensor, itemsize


@layer_rule(layers.MultiHeadAttention)
def _multi_head(step: Step, layer, call, inputs):
    width = itemsize(layer.compute_dtype)
    query, value = inputs[0], inputs[min(1, len(inputs) - 1)]
    key = inputs[2] if len(inputs) > 2 else value
    asked, given = _positions(call.inputs[0]), _positions(call.inputs[min(1, len(inputs) - 1)])
    keys, values = layer.num_heads * layer.key_dim, layer.num_heads * layer.value_dim
    q = project(step, layer.query_dense, query, Size(0, asked * keys * width))
    k = project(step, layer.key_dense, key, Size(0, given * keys * width))
    v = project(step, layer.value_dense, value, Size(0, given * values * width))
    pairs = Size(0, layer.num_heads * asked * given * width)
    context = _attend(step, q, k, v, pairs, layer.dropout)
    made = project(step, layer.output_dense, context, size_of(call.outputs[0]))
    scores = [step.tape.op("Identity", [context], size_of(one)) for one in call.outputs[1:]]
    return [made, *scores]


def _attend(step: Step, q: Tensor, k: Tensor, v: Tensor, pairs: Size, dropout: float) -> Tensor:
    """Softmax of all pairs, times the values; both factors of every product are transposed."""
    tape = step.tape
    scores = tape.op("Einsum", [q, k], pairs, scratch=_sizes(q, k))
    weights = tape.op("Softmax", [scores], pairs, in_place=True)
    kept = [weights]
    if not dropout:
        # Without dropout Keras has its own softmax, whose gradient is prepared while it is made.
        kept.append(tape.op("Mul", [weights], pairs))
    else:
        random = tape.op("RandomUniform", [], pairs)
        kept.append(tape.op("GreaterEqual", [random], pairs.times(0.25)))
        weights = tape.op("Mul", [weights, kept[-1]], pairs)
        kept.append(weights)
    context = tape.op("Einsum", [weights, v], q.size, scratch=_sizes(v, q))

    def backward(dy):
        d_weights = tape.op("Einsum", [dy, v], pairs, scratch=_sizes(v, q))
        if v.trains:
            tape.send(v, tape.op("Einsum", [dy, weights], v.size, scratch=_sizes(v, q)))
        d_scores = tape.op("SoftmaxGrad", [d_weights, *kept], pairs, scratch=pairs.at)
        for tensor, other in ((q, k), (k, q)):
            if tensor.trains:
                reads = [d_scores, other]
                tape.send(tensor, tape.op("Einsum", reads, tensor.size, scratch=_sizes(q, k)))

    tape.on_gradient(context, backward)
    return context


def _sizes(*tensors: Tensor):
    return lambda batch: sum(tensor.size.at(batch) for tensor in tensors)


def _positions(symbol) -> int:
    return math.prod(symbol.shape[1:-1])


@layer_rule(layers.GroupQueryAttention)
def _grouped_query(step: Step, layer, call, inputs):
    """As a layer that no rule knows, with the scores kept twice and needed twice more."""
    asked, given = _positions(call.inputs[0]), _positions(call.inputs[min(1, len(inputs) - 1)])
    pairs = layer.num_query_heads * asked * given * itemsize(layer.compute_dtype)
    return unknown(step, layer, call, inputs, kept=2 * pairs)
