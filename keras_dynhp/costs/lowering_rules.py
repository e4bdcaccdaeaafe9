"""The lowering of each layer family, as TensorFlow's converter does it for int8."""

from __future__ import annotations

import math

from keras import layers

from keras_dynhp.costs.lowering import (
    Lowering,
    bias,
    index,
    register_lowering,
    register_operation,
    weight,
)
from keras_dynhp.costs.walk import Call


@register_lowering(
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.AlphaDropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.ActivityRegularization,
    layers.Identity,
)
@register_operation("Identity")
def _nothing(layer, call: Call, lowering: Lowering):
    return lowering.inputs(call)[0]


@register_lowering(layers.Dense)
def _dense(layer, call, lowering):
    constants = [weight(layer.units, call.input.shape[-1])]
    if layer.use_bias:
        constants.append(bias(layer.units))
    value = lowering.add("FULLY_CONNECTED", call, lowering.inputs(call), None, constants)
    return lowering.activate(call, value, layer.activation)


def _conv(layer, call, lowering, spatial, kernel):
    """A two-dimensional convolution, between two reshapes for a one-dimensional layer."""
    value = lowering.inputs(call)[0]
    kind = "DEPTHWISE_CONV_2D" if isinstance(layer, _DEPTHWISE) else "CONV_2D"
    channels = call.output.shape[-1]
    constants = [weight(*kernel, scales=channels)]
    if layer.use_bias:
        constants.append(bias(channels, channels))
    shape = call.output.shape
    if spatial == 1:
        value = lowering.reshape(call, value, (1, 1, *value.shape[1:]))
        shape = (1, 1, *shape[1:])
    value = lowering.add(kind, call, [value], shape, constants)
    value = lowering.activate(call, value, layer.activation)
    return lowering.reshape(call, value)


_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)


@register_lowering(layers.Conv1D, layers.Conv2D)
def _full(layer, call, lowering):
    inside = call.input.shape[-1] // layer.groups
    size = layer.kernel_size if layer.rank == 2 else (1, *layer.kernel_size)
    return _conv(layer, call, lowering, layer.rank, (layer.filters, *size, inside))


@register_lowering(*_DEPTHWISE)
def _depthwise(layer, call, lowering):
    size = layer.kernel_size if layer.rank == 2 else (1, *layer.kernel_size)
    return _conv(layer, call, lowering, layer.rank, (1, *size, call.output.shape[-1]))


@register_lowering(layers.SeparableConv1D, layers.SeparableConv2D)
def _separable(layer, call, lowering):
    value = lowering.inputs(call)[0]
    size, output = layer.kernel_size, call.output.shape
    if layer.rank == 1:
        value = lowering.reshape(call, value, (1, 1, *value.shape[1:]))
        size, output = (1, *size), (1, 1, *output[1:])
    between = call.input.shape[-1] * layer.depth_multiplier
    constants = [weight(1, *size, between, scales=between), bias(between, between)]
    value = lowering.add("DEPTHWISE_CONV_2D", call, [value], (*output[:-1], between), constants)
    constants = [weight(layer.filters, 1, 1, between, scales=layer.filters)]
    if layer.use_bias:
        constants.append(bias(layer.filters, layer.filters))
    value = lowering.add("CONV_2D", call, [value], output, constants)
    return lowering.reshape(call, lowering.activate(call, value, layer.activation))


@register_lowering(layers.Conv2DTranspose)
def _transposed(layer, call, lowering):
    channels = layer.filters
    constants = [
        index(4),
        weight(channels, *layer.kernel_size, call.input.shape[-1], scales=channels),
    ]
    if layer.use_bias:
        constants.append(bias(channels, channels))
    value = lowering.add("TRANSPOSE_CONV", call, lowering.inputs(call), None, constants)
    return lowering.activate(call, value, layer.activation)


@register_lowering(layers.BatchNormalization)
def _batch_norm(layer, call, lowering):
    return lowering.scale_and_shift(call, call.input.shape[layer.axis])


@register_lowering(layers.Rescaling, layers.Normalization)
def _rescaling(layer, call, lowering):
    by_channel = isinstance(layer, layers.Normalization)
    factor = weight(call.input.shape[-1]) if by_channel else weight()
    value = lowering.add("MUL", call, lowering.inputs(call), None, [factor])
    if not by_channel and layer.offset == 0:
        return value
    return lowering.add("ADD", call, [value], None, [factor])


@register_lowering(layers.Activation)
def _activation(layer, call, lowering):
    alone = lowering.only_reader(call.input)
    return lowering.activate(call, lowering.inputs(call)[0], layer.activation, alone)


@register_lowering(layers.ReLU)
def _relu(layer, call, lowering):
    value, alone = lowering.inputs(call)[0], lowering.only_reader(call.input)
    if layer.negative_slope:
        return lowering.add("LEAKY_RELU", call, [value])
    name = "relu" if layer.max_value is None else "relu6"
    return lowering.activate(call, value, type(name, (), {})(), alone)


@register_lowering(layers.LeakyReLU)
def _leaky(layer, call, lowering):
    return lowering.add("LEAKY_RELU", call, lowering.inputs(call))


@register_lowering(layers.PReLU)
def _prelu(layer, call, lowering):
    return lowering.add("PRELU", call, lowering.inputs(call), None, [weight(*layer.alpha.shape)])


@register_lowering(layers.Softmax)
def _softmax(layer, call, lowering):
    return lowering.add("SOFTMAX", call, lowering.inputs(call))


@register_lowering(layers.MaxPooling2D, layers.MaxPooling1D)
def _max_pool(layer, call, lowering):
    return _pool("MAX_POOL_2D", layer, call, lowering)


@register_lowering(layers.AveragePooling2D, layers.AveragePooling1D)
def _average_pool(layer, call, lowering):
    return _pool("AVERAGE_POOL_2D", layer, call, lowering)


def _pool(kind, layer, call, lowering):
    value, shape = lowering.inputs(call)[0], call.output.shape
    if len(shape) == 3:
        value = lowering.reshape(call, value, (1, *value.shape))
        shape = (1, *shape)
    return lowering.reshape(call, lowering.add(kind, call, [value], shape))


@register_lowering(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D)
@register_operation("Mean")
def _mean(layer, call, lowering):
    return _reduce("MEAN", call, lowering)


@register_lowering(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D)
@register_operation("Max")
def _max(layer, call, lowering):
    return _reduce("REDUCE_MAX", call, lowering)


def _reduce(kind, call, lowering):
    axes = len(call.input.shape) - len(call.output.shape)
    which = index(axes) if axes > 1 else index()
    return lowering.add(kind, call, lowering.inputs(call), None, [which])


@register_lowering(layers.Flatten, layers.Reshape)
@register_operation("Reshape", "Squeeze", "ExpandDims", "Ravel")
def _reshape(layer, call, lowering):
    return lowering.reshape(call, lowering.inputs(call)[0])


@register_lowering(layers.Permute)
@register_operation("Transpose")
def _transpose(layer, call, lowering):
    rank = len(call.input.shape)
    return lowering.add("TRANSPOSE", call, lowering.inputs(call), None, [index(rank)])


@register_lowering(layers.ZeroPadding1D, layers.ZeroPadding2D)
@register_operation("Pad")
def _pad(layer, call, lowering):
    rank = len(call.input.shape)
    return lowering.add("PAD", call, lowering.inputs(call), None, [index(rank, 2)])


@register_lowering(layers.Cropping1D, layers.Cropping2D)
@register_operation("GetItem")
def _slice(layer, call, lowering):
    rank = len(call.input.shape)
    constants = [index(rank), index(rank), index(rank)]
    return lowering.add("STRIDED_SLICE", call, lowering.inputs(call), None, constants)


@register_lowering(layers.UpSampling2D)
def _upsample(layer, call, lowering):
    kinds = {"nearest": "RESIZE_NEAREST_NEIGHBOR", "bilinear": "RESIZE_BILINEAR"}
    kind = kinds.get(layer.interpolation, "RESIZE_BILINEAR")
    return lowering.add(kind, call, lowering.inputs(call), None, [index(2)])


@register_lowering(layers.RepeatVector, layers.UpSampling1D)
def _repeat(layer, call, lowering):
    """As an image, each part of which becomes so many in a row."""
    count = call.output.size // call.input.size
    part, length = call.output.shape[-1], call.output.shape[1] // count
    value = lowering.reshape(call, lowering.inputs(call)[0], (1, length, 1, part))
    larger = (1, length, count, part)
    value = lowering.add("RESIZE_NEAREST_NEIGHBOR", call, [value], larger, [index(2)])
    return lowering.reshape(call, value)


@register_operation("Take")
def _take(operation, call, lowering):
    picked = call.output.size * call.input.shape[operation.axis] // call.input.size
    return lowering.add("GATHER", call, lowering.inputs(call), None, [index(picked)])


@register_lowering(layers.Concatenate)
@register_operation("Concatenate")
def _concatenate(layer, call, lowering):
    return lowering.add("CONCATENATION", call, lowering.inputs(call))


@register_lowering(layers.Add)
@register_operation("Add")
def _add(layer, call, lowering):
    return _chain("ADD", call, lowering)


@register_lowering(layers.Subtract)
@register_operation("Subtract")
def _subtract(layer, call, lowering):
    return _chain("SUB", call, lowering)


@register_lowering(layers.Multiply)
@register_operation("Multiply")
def _multiply(layer, call, lowering):
    return _chain("MUL", call, lowering)


@register_lowering(layers.Maximum)
@register_operation("Maximum")
def _maximum(layer, call, lowering):
    return _chain("MAXIMUM", call, lowering)


@register_lowering(layers.Minimum)
@register_operation("Minimum")
def _minimum(layer, call, lowering):
    return _chain("MINIMUM", call, lowering)


@register_lowering(layers.Average)
def _average(layer, call, lowering):
    value = _chain("ADD", call, lowering)
    return lowering.add("MUL", call, [value], None, [weight()])


def _chain(kind, call, lowering):
    """Operators on two: a third input takes another operator, a constant is stored."""
    value, *others = lowering.inputs(call)
    if not others:
        return lowering.add(kind, call, [value], None, [weight()])
    for other in others:
        shape = tuple(max(pair) for pair in zip(value.shape, other.shape))
        value = lowering.add(kind, call, [value, other], shape)
    return value


@register_operation("Relu", "Relu6", "Gelu")
def _bare_activation(operation, call, lowering):
    alone = lowering.only_reader(call.input)
    return lowering.activate(call, lowering.inputs(call)[0], operation, alone)


@register_operation("Matmul")
def _matmul(operation, call, lowering):
    """With a constant it is a dense layer, of two tensors a product."""
    inputs = lowering.inputs(call)
    if len(inputs) == 1:
        kernel = weight(call.output.shape[-1], call.input.shape[-1])
        return lowering.add("FULLY_CONNECTED", call, inputs, None, [kernel])
    return lowering.add("BATCH_MATMUL", call, inputs)


@register_lowering(layers.Embedding)
def _embedding(layer, call, lowering):
    table = weight(layer.input_dim, layer.output_dim)
    return lowering.add("GATHER", call, lowering.inputs(call), None, [table])


@register_lowering(layers.EinsumDense)
def _einsum_dense(layer, call, lowering):
    """A dense layer on the reshaped input, as far as memory is concerned."""
    constants = [weight(*layer.kernel.shape)]
    if layer.bias is not None:
        constants.append(bias(math.prod(layer.bias.shape)))
    value = lowering.add("FULLY_CONNECTED", call, lowering.inputs(call), None, constants)
    return lowering.activate(call, value, layer.activation)
