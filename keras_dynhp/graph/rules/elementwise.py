"""Layers and operations that treat every number by itself."""

from __future__ import annotations

import keras

from keras_dynhp.graph import labels as lb
from keras_dynhp.graph.registry import rule_for, zero_kept_by
from keras_dynhp.graph.rules.activation import mixes_channels

layers = keras.layers
zero_kept_by(
    layers.Identity,
    layers.ReLU,
    layers.LeakyReLU,
    layers.ELU,
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.GaussianDropout,
    "Relu",
    "Silu",
    "Gelu",
    "Tanh",
    "Negative",
)


@rule_for(
    layers.Identity,
    layers.ReLU,
    layers.LeakyReLU,
    layers.ELU,
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.AlphaDropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.ActivityRegularization,
    "Relu",
    "Relu6",
    "Sigmoid",
    "SparseSigmoid",
    "Softplus",
    "Softsign",
    "SoftShrink",
    "SparsePlus",
    "Silu",
    "Squareplus",
    "LogSigmoid",
    "LeakyRelu",
    "HardSigmoid",
    "HardSilu",
    "Elu",
    "Selu",
    "Gelu",
    "Celu",
    "TanhShrink",
    "HardTanh",
    "HardShrink",
    "Threshold",
    "Absolute",
    "Abs",
    "Fabs",
    "Arccos",
    "Arccosh",
    "Arcsin",
    "Arcsinh",
    "Arctan",
    "Arctanh",
    "Cbrt",
    "Ceil",
    "Clip",
    "Copy",
    "Cos",
    "Cosh",
    "Deg2rad",
    "Rad2deg",
    "Exp",
    "Exp2",
    "Expm1",
    "Floor",
    "Log",
    "Log10",
    "Log1p",
    "Log2",
    "Negative",
    "NanToNum",
    "OnesLike",
    "ZerosLike",
    "Reciprocal",
    "Round",
    "Sign",
    "Sin",
    "Sinc",
    "Sinh",
    "Sqrt",
    "Square",
    "Tan",
    "Tanh",
    "Trunc",
    "StopGradient",
    "Cast",
    "SaturateCast",
    "ConvertToTensor",
    "Rsqrt",
    "Erf",
    "Erfc",
    "LogicalNot",
    "Isfinite",
    "Isinf",
    "Isnan",
)
def elementwise(call):
    """What comes out lies where it came in."""
    return call.inputs[0]


@rule_for(layers.Activation)
def activation(call):
    """An activation function by itself."""
    why = mixes_channels(call.layer.activation)
    return softmax(call, -1) if why else call.inputs[0]


@rule_for(layers.Softmax)
def softmax_layer(call):
    """Softmax over its own axis."""
    axis = call.layer.axis
    return softmax(call, *(axis if isinstance(axis, (list, tuple)) else [axis]))


@rule_for("Softmax", "LogSoftmax", "Sparsemax")
def softmax_operation(call):
    """Softmax as a bare operation."""
    return softmax(call, call.layer.axis)


def softmax(call, *axes):
    """A zero would still weigh in the sum, so masking is not removing."""
    rank = len(call.input_shapes[0])
    if {axis % rank for axis in axes} & set(lb.varying(call.inputs[0])):
        return call.barrier("mixes channels (a removed one would change the others)")
    return call.inputs[0]


@rule_for(layers.Masking)
def masking(call):
    """Skips steps at which every feature has a given value; a feature of zero does not count."""
    rank = len(call.input_shapes[0])
    if set(call.varies()) - {rank - 1}:
        return call.barrier("looks for steps along the axis on which channels lie")
    if call.varies() and call.layer.mask_value != 0:
        return call.barrier("compares channels with another value than zero")
    call.read(0, weightless=True)
    return call.inputs[0]


@rule_for(layers.PReLU)
def prelu(call):
    """A learned slope for every position that is not shared."""
    labels = call.inputs[0]
    varying = lb.varying(labels)
    vectors = [
        call.channels(0, axis) if axis in varying and call.layer.alpha.shape[axis - 1] > 1 else None
        for axis in range(1, labels.ndim)
    ]
    call.label(call.layer.alpha, *vectors)
    return labels


@rule_for(layers.Rescaling)
def rescaling(call):
    """`x * scale + offset`; a scale per channel is a constant in the configuration."""
    if any(hasattr(value, "__len__") for value in (call.layer.scale, call.layer.offset)):
        call.pin(call.inputs[0], "its scale or offset lists one constant per channel")
    return call.inputs[0]
