"""Layers and operations that treat every number by itself."""

from __future__ import annotations

import keras
import numpy as np

from keras_dynhp.graph import labels as lb
from keras_dynhp.graph.registry import rule_for, zero_kept_by
from keras_dynhp.graph.rules.merging import join

layers = keras.layers
zero_kept_by(
    layers.Identity,
    layers.LeakyReLU,
    layers.PReLU,
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
# Below its threshold a ReLU with a slope returns slope * (x - threshold).
zero_kept_by(layers.ReLU, when=lambda layer: not (layer.threshold and layer.negative_slope))


@rule_for(
    layers.Identity,
    layers.ReLU,
    layers.LeakyReLU,
    layers.ELU,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
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
    "Isneginf",
    "Isposinf",
    "Signbit",
    "I0",
    "Erfinv",
    "Real",
)
def elementwise(call):
    """What comes out lies where it came in."""
    return call.inputs[0]


@rule_for(layers.Dropout, layers.AlphaDropout)
def dropout(call):
    """Like the others, but its noise may have a shape of its own."""
    noise = call.layer.noise_shape or ()
    for axis in call.varies():
        if len(noise) > axis and noise[axis] not in (None, 1):

            def write(config, survivors, vector, axis=axis):
                shape = list(config["noise_shape"])
                shape[axis] = survivors.count(vector)
                config["noise_shape"] = tuple(shape)

            call.resize(("noise_shape", axis), call.channels(0, axis), write)
    return call.inputs[0]


@rule_for("Clip")
def clip(call):
    """Bounds may be one number, or a constant for every channel."""
    if any(np.ndim(bound) for bound in (call.layer.x_min, call.layer.x_max)):
        call.pin(call.inputs[0], "its bounds list constants")
    return call.inputs[0]


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
    over = set(range(rank)) if None in axes else {axis % rank for axis in axes}
    if over & set(lb.varying(call.inputs[0])):
        return call.barrier("mixes channels (a removed one would change the others)")
    if len(call.inputs) > 1:  # a mask of what counts, as large as what it is for
        return join(call, call.inputs[0], call.input_shapes[0], *_mask(call))[0]
    return call.inputs[0]


def _mask(call):
    labels, shape = call.inputs[1], call.input_shapes[1]
    extra = call.inputs[0].ndim - labels.ndim
    return labels.reshape((1,) * extra + labels.shape), (1,) * extra + tuple(shape)


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
