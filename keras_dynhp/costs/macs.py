"""Multiply-accumulates of a forward pass: one small rule per layer family."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import keras
from keras import layers

from keras_dynhp.costs.walk import Call, Tensor, UnknownLength, flatten
from keras_dynhp.keras_state import graph

_LAYER_RULES: dict[type, Callable] = {}
_OPERATION_RULES: dict[str, Callable] = {}


def count_macs(model: keras.Model, samples: Sequence[tuple[int | None, ...]] | None = None) -> int:
    """Multiply-accumulates of one forward pass of one sample.

    Counted is what multiplies and adds up: dense, convolutional and recurrent kernels, matrix
    products, attention. What works value by value (biases, activations, batch normalization,
    pooling, adds) counts as nothing, and so does a lookup (Embedding). Padding counts as if it were
    computed. A shared layer counts once for every call.

    A layer that no rule knows counts every weight matrix it holds once for each position of its
    output (all axes but the first and the last); `register_macs` teaches it better.

    Args:
        model: a built Sequential or Functional Keras 3 model.
        samples: for each input the shape of one sample, for lengths that the model leaves open.

    Raises:
        TypeError: for what is no Keras model.
        ValueError: for a subclassed or unbuilt model, or where the count depends on an axis of
            unknown length.

    Example:

    >>> import keras
    >>> from keras_dynhp.costs.macs import count_macs
    >>> model = keras.Sequential(
    ...     [keras.Input((28, 28)), keras.layers.Flatten(), keras.layers.Dense(300)]
    ... )
    >>> count_macs(model)
    235200
    """
    return sum(call_macs(call) for call in flatten(model, samples).calls)


def macs_if_known(model: keras.Model) -> int | None:
    """As `count_macs`; None where the count depends on an axis of unknown length."""
    try:
        return count_macs(model)
    except UnknownLength:
        return None


def layer_macs(model: keras.Model) -> dict[str, int]:
    """Multiply-accumulates of each operation, by name; inside nested models `outer/inner`.

    The sum is `count_macs(model)`; a shared layer's entry is the sum over its calls.
    """
    counts: dict[str, int] = {}
    for call in flatten(model).calls:
        counts[call.name] = counts.get(call.name, 0) + call_macs(call)
    return counts


def call_macs(call: Call) -> int:
    """Multiply-accumulates of one call."""
    try:
        return _operation_macs(call.operation, call)
    except TypeError:
        for tensor in (*call.inputs, *call.outputs):
            _ = tensor.size  # says so where an axis is of unknown length
        raise


def register_macs(*kinds: type) -> Callable:
    """Decorator: the rule for layers of these classes and of classes derived from them.

    The rule gets `(layer, call)`; `call.inputs` and `call.outputs` are lists of tensors with
    static `shape` (first axis 1) and `size`; it returns an int.

    >>> import keras
    >>> from keras_dynhp.costs.macs import register_macs
    >>> class Double(keras.layers.Layer):
    ...     def call(self, x):
    ...         return 2 * x
    >>> @register_macs(Double)
    ... def _double(layer, call):
    ...     return call.output.size
    """

    def add(rule):
        _LAYER_RULES.update((kind, rule) for kind in kinds)
        return rule

    return add


def _register_operation(*names: str) -> Callable:
    def add(rule):
        _OPERATION_RULES.update((name, rule) for name in names)
        return rule

    return add


def _operation_macs(operation, call: Call) -> int:
    for kind in type(operation).__mro__:
        if kind in _LAYER_RULES:
            return _LAYER_RULES[kind](operation, call)
    name = graph.bare_operation_name(operation)
    if name in _OPERATION_RULES:
        return _OPERATION_RULES[name](operation, call)
    return _unknown(operation, call)


def _unknown(operation, call: Call) -> int:
    per_position = _matrix_values(operation)
    return per_position and per_position * math.prod(call.output.shape[1:-1])


def _matrix_values(holder) -> int:
    """Values of all weights with two axes or more; a GRU's bias has two and is none of them."""
    weights = getattr(holder, "trainable_weights", [])
    return sum(math.prod(w.shape) for w in weights if len(w.shape) > 1 and w.name != "bias")


def _channels(layer, tensor: Tensor) -> int:
    return tensor.shape[1 if layer.data_format == "channels_first" else -1]


def _apply(layer, inputs: list[Tensor]) -> Call:
    """A call of a layer inside another layer, its output shape asked of the layer itself."""
    shapes = [tensor.shape for tensor in inputs]
    shape = layer.compute_output_shape(shapes[0] if len(shapes) == 1 else shapes)
    outputs = [Tensor(tuple(shape), inputs[0].dtype, layer.name)]
    return Call(layer, layer.name, inputs, outputs)


@register_macs(
    layers.Embedding,
    layers.BatchNormalization,
    layers.LayerNormalization,
    layers.GroupNormalization,
    layers.Normalization,
    layers.PReLU,
)
def _nothing(layer, call):
    return 0


@register_macs(layers.Dense)
def _dense(layer, call):
    return call.output.size * call.input.shape[-1]


@register_macs(layers.EinsumDense)
def _einsum_dense(layer, call):
    return _einsum_size(layer.equation, [call.input.shape, tuple(layer.kernel.shape)])


def _einsum_size(equation: str, shapes: list[tuple]) -> int:
    """Product of the lengths of all indices, an ellipsis standing for what is left."""
    lengths: dict[str, int] = {}
    for letters, shape in zip(equation.replace(" ", "").split("->")[0].split(","), shapes):
        left, ellipsis, right = letters.partition("...")
        if ellipsis:
            spread = len(shape) - len(left) - len(right)
            middle = shape[len(left) : len(left) + spread]
            for axis, n in enumerate(reversed(middle)):
                lengths[f"...{axis}"] = max(n, lengths.get(f"...{axis}", 1))
            shape = (*shape[: len(left)], *shape[len(left) + spread :])
        for letter, n in zip(left + right, shape):
            lengths[letter] = max(n, lengths.get(letter, 1))
    return math.prod(lengths.values())


@register_macs(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def _conv(layer, call):
    per_value = math.prod(layer.kernel_size) * _channels(layer, call.input) // layer.groups
    return call.output.size * per_value


@register_macs(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def _conv_transpose(layer, call):
    return call.input.size * math.prod(layer.kernel_size) * layer.filters


@register_macs(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def _depthwise(layer, call):
    return call.output.size * math.prod(layer.kernel_size)


@register_macs(layers.SeparableConv1D, layers.SeparableConv2D)
def _separable(layer, call):
    positions = call.output.size // layer.filters
    between = _channels(layer, call.input) * layer.depth_multiplier
    return positions * between * (math.prod(layer.kernel_size) + layer.filters)


@register_macs(layers.SimpleRNN, layers.LSTM, layers.GRU, layers.RNN)
def _recurrent(layer, call):
    """Every time step multiplies by every matrix of the cell once."""
    return call.input.shape[1] * _matrix_values(layer.cell)


@register_macs(layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D)
def _conv_lstm(layer, call):
    last = layer.compute_output_shape(call.input.shape)
    frame = last[2:] if layer.return_sequences else last[1:]
    positions = math.prod(frame) // layer.filters
    return call.input.shape[1] * positions * _matrix_values(layer.cell)


@register_macs(layers.Bidirectional)
def _bidirectional(layer, call):
    both = (layer.forward_layer, layer.backward_layer)
    return sum(_operation_macs(inner, call) for inner in both)


@register_macs(layers.TimeDistributed)
def _time_distributed(layer, call):
    step = Tensor((1, *call.input.shape[2:]), call.input.dtype, call.name)
    inner = layer.layer
    if isinstance(inner, keras.Model):
        return call.input.shape[1] * count_macs(inner)
    return call.input.shape[1] * call_macs(_apply(inner, [step]))


@register_macs(layers.Wrapper)
def _wrapper(layer, call):
    return _operation_macs(layer.layer, call)


@register_macs(layers.MultiHeadAttention)
def _multi_head(layer, call):
    """The four projections, the scores, and the weighted sum of the values."""
    query, value = call.inputs[0], call.inputs[1] if len(call.inputs) > 1 else call.inputs[0]
    asked, given = math.prod(query.shape[1:-1]), math.prod(value.shape[1:-1])
    keys, values = layer.num_heads * layer.key_dim, layer.num_heads * layer.value_dim
    key_width = call.inputs[2].shape[-1] if len(call.inputs) > 2 else value.shape[-1]
    projections = asked * query.shape[-1] * keys + given * key_width * keys
    projections += given * value.shape[-1] * values + asked * values * call.output.shape[-1]
    return projections + _attended(layer, query, asked, given) * (keys + values)


def _attended(layer, query: Tensor, asked: int, given: int) -> int:
    """Pairs of positions that meet: all, or those that agree off the attended axes."""
    rank = len(query.shape)
    axes = layer.get_config()["attention_axes"] or tuple(range(1, rank - 1))
    apart = math.prod(n for axis, n in enumerate(query.shape[1:-1], 1) if axis not in axes)
    return asked * given // apart


@register_macs(layers.GroupQueryAttention)
def _grouped_query(layer, call):
    query, value = call.inputs[0], call.inputs[1] if len(call.inputs) > 1 else call.inputs[0]
    asked, given = query.shape[1], value.shape[1]
    wide = layer.num_query_heads * layer.head_dim
    narrow = layer.num_key_value_heads * layer.head_dim
    projections = asked * wide * (query.shape[-1] + call.output.shape[-1])
    return projections + 2 * given * value.shape[-1] * narrow + 2 * asked * given * wide


@register_macs(layers.Attention, layers.AdditiveAttention)
def _attention(layer, call):
    query, value = call.inputs[0], call.inputs[1]
    pairs = query.shape[1] * value.shape[1]
    return pairs * (query.shape[-1] + value.shape[-1])


@register_macs(layers.Dot)
def _dot_layer(layer, call):
    axes = layer.axes if isinstance(layer.axes, int) else layer.axes[0]
    return call.output.size * call.input.shape[axes]


def _shapes(call: Call) -> list[tuple]:
    """Shapes of the array arguments of a bare operation, constants and variables among them."""
    tensors = iter(call.inputs)
    args, kwargs = call.arguments
    found = []
    for value in keras.tree.flatten((args, kwargs)):
        if isinstance(value, keras.KerasTensor):
            found.append(next(tensors).shape)
        elif hasattr(value, "shape"):
            found.append(tuple(value.shape))
    return found


@_register_operation("Matmul")
def _matmul(operation, call):
    return call.output.size * _shapes(call)[0][-1]


@_register_operation("Dot", "Inner", "Vdot")
def _dot(operation, call):
    first = _shapes(call)[0]
    return call.output.size * (first[-1] if first else 1)


@_register_operation("Tensordot")
def _tensordot(operation, call):
    first, axes = _shapes(call)[0], operation.axes
    if isinstance(axes, int):
        summed = first[len(first) - axes :]
    else:
        summed = [first[axis] for axis in keras.tree.flatten(axes[0])]
    return call.output.size * math.prod(summed)


@_register_operation("Einsum")
def _einsum(operation, call):
    return _einsum_size(operation.subscripts, _shapes(call))


@_register_operation("Conv")
def _bare_conv(operation, call):
    kernel = _shapes(call)[1]
    return call.output.size * math.prod(kernel[:-1])


@_register_operation("DepthwiseConv")
def _bare_depthwise(operation, call):
    return call.output.size * math.prod(_shapes(call)[1][:-2])


@_register_operation("SeparableConv")
def _bare_separable(operation, call):
    _, depthwise, pointwise = _shapes(call)[:3]
    positions = call.output.size // pointwise[-1]
    return positions * (math.prod(depthwise) + math.prod(pointwise))


@_register_operation("ConvTranspose")
def _bare_conv_transpose(operation, call):
    kernel = _shapes(call)[1]
    return call.input.size * math.prod(kernel[:-1])


@_register_operation("DotProductAttention")
def _dot_product_attention(operation, call):
    """Query, key and value of shape (batch, length, heads, width)."""
    query, key, value = _shapes(call)[:3]
    pairs = query[1] * key[1] * query[2]
    return pairs * (query[-1] + value[-1])
