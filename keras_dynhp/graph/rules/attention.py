"""Attention: heads and value width of a layer, or nothing but its inputs' channels."""

from __future__ import annotations

import keras
import numpy as np

from keras_dynhp.graph.call import is_symbolic
from keras_dynhp.graph.records import ADAPTED, IN, INSIDE, OUT
from keras_dynhp.graph.registry import rule_for
from keras_dynhp.keras_state.graph import is_adapted

layers = keras.layers


def _features(call, given):
    """What is read of query, value and key (the value again where no key is given)."""
    query, value = given["query"], given["value"]
    key = given.get("key")
    key = value if key is None else key
    return [call.read(call.index_of(tensor)) for tensor in (query, value, key)]


def _keep_heads_of_wide_mask(call, given, heads):
    """An attention mask may have an axis of heads; then none of them can go."""
    mask = given.get("attention_mask")
    if mask is not None and len(mask.shape) > 3:
        call.pin(heads, "its attention mask has an axis of heads")


def _projection(dense, features, *outputs):
    """An EinsumDense inside: features to heads and widths."""

    def label(call):
        call.label(dense._kernel, (features, IN), *outputs)
        call.label(dense.bias, *outputs)

    return label


def _head_output(call, heads, scores_axis=1):
    """Attention scores are a second output, with an axis of heads."""
    return [call.along(heads, scores_axis, 1)] if len(call.output_shapes) > 1 else []


def _mind_keras_add(call, heads, key_width, width):
    """Keep shapes away from a mistake of Keras.

    `keras.ops.add` takes a bias of shape (heads, 1) for a vector and adds it along the time axis
    where there are as many steps as heads (Keras 3.15): so positions of the value width go in
    pairs, and heads stay where the key width is 1.
    """
    if key_width == 1:
        call.pin(heads, "Keras may add a bias of one number per head along the wrong axis")
    if width is not None and len(heads) > 1:
        pairs = np.minimum(np.arange(len(width)) // 2, max(len(width) // 2 - 1, 0))
        call.couple(width[pairs * 2], width)


@rule_for(layers.MultiHeadAttention)
def multi_head(call):
    """Heads go, and so do positions of the value width, the same in every head.

    The key width stays: the layer divides scores by its square root.
    """
    layer, given = call.layer, call.arguments()
    if is_adapted(layer):
        return call.barrier(ADAPTED)
    query, value, key = _features(call, given)
    heads = call.produce(layer._num_heads, "heads")
    width = call.produce(layer._value_dim, "value")
    _keep_heads_of_wide_mask(call, given, heads)
    if layer._use_bias:
        _mind_keras_add(call, heads, layer._key_dim, width)
    if len(call.output_shapes) > 1 and len(call.output_shapes[1]) != 4:
        call.pin(heads, "its scores are returned over several axes of attention")
    _projection(layer._query_dense, query, (heads, OUT), None)(call)
    _projection(layer._key_dense, key, (heads, OUT), None)(call)
    _projection(layer._value_dense, value, (heads, OUT), (width, OUT))(call)
    if getattr(layer, "_use_gate", False):
        _projection(layer._gate_dense, query, (heads, OUT), (width, OUT))(call)
    call.resize("num_heads", heads)
    call.resize("value_dim", width)
    dense = layer._output_dense
    made = dense._kernel.shape[2:]
    if len(made) == 1:
        out = call.produce(made[0])
        call.resize("output_shape", out, _as_tuple)
        ends, outputs = [(out, OUT)], [call.along(out)]
    else:
        ends, outputs = [None] * len(made), [call.opaque("several output axes of")]
    call.label(dense._kernel, (heads, INSIDE), (width, INSIDE), *ends)
    call.label(dense.bias, *ends)
    return outputs + _head_output(call, heads)


def _as_tuple(config, survivors, vector):
    config["output_shape"] = (survivors.count(vector),)


@rule_for(getattr(layers, "GroupQueryAttention", None))
def grouped_query(call):
    """A key and value head goes with all the query heads that share it."""
    layer, given = call.layer, call.arguments()
    if is_adapted(layer):
        return call.barrier(ADAPTED)
    query, value, key = _features(call, given)
    heads = call.produce(layer.num_key_value_heads, "heads")
    every = np.repeat(heads, layer.num_repeats)
    _keep_heads_of_wide_mask(call, given, heads)
    if layer.use_bias:
        _mind_keras_add(call, heads, layer.head_dim, None)
    _projection(layer._query_dense, query, (every, OUT), None)(call)
    _projection(layer._key_dense, key, (heads, OUT), None)(call)
    _projection(layer._value_dense, value, (heads, OUT), None)(call)
    if getattr(layer, "use_gate", False):
        _projection(layer._gate_dense, query, (every, OUT), None)(call)
    # The layer makes its output as wide as its query, and wants a value as wide as that.
    out = call.produce(layer.feature_dim)
    call.couple(out, query)
    call.couple(value, query)
    call.label(layer._output_dense._kernel, (every, INSIDE), None, (out, OUT))
    call.label(layer._output_dense.bias, (out, OUT))
    call.resize("num_key_value_heads", heads)
    call.resize("num_query_heads", every)
    return [call.along(out), *_head_output(call, every)]


@rule_for(layers.Attention, layers.AdditiveAttention)
def dot_product(call):
    """Query and key are compared channel by channel; the value's channels pass."""
    inputs = call.arguments()["inputs"]
    query, value = inputs[0], inputs[1]
    key = inputs[2] if len(inputs) > 2 else value
    if not all(is_symbolic(tensor) for tensor in (query, value, key)):
        return call.barrier("attends to a constant")
    scale = getattr(call.layer, "scale", None)
    weighted = scale is not None and len(scale.shape) == 1
    one = call.read(call.index_of(query), weightless=not weighted)
    other = call.read(call.index_of(key), weightless=not weighted)
    call.couple(one, other)
    if weighted:
        call.label(scale, (one, IN))
    position = call.index_of(value)
    rank = len(call.input_shapes[position])
    if set(call.varies(position)) - {rank - 1}:
        return call.barrier("attends along the axis on which channels lie")
    scores = [call.opaque("scores of", 1)] if len(call.output_shapes) > 1 else []
    return [call.along(call.channels(position)), *scores]
