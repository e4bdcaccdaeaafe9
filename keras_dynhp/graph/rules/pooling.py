"""Layers that work on space and leave channels alone: pooling, padding, cropping, upsampling."""

from __future__ import annotations

import keras

from keras_dynhp.graph import labels as lb
from keras_dynhp.graph.registry import rule_for, zero_kept_by
from keras_dynhp.graph.rules.convolution import channel_axis

layers = keras.layers
ADAPTIVE = [
    getattr(layers, f"Adaptive{kind}Pooling{rank}D", None)
    for kind in ("Average", "Max")
    for rank in (1, 2, 3)
]
zero_kept_by(
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
)


@rule_for(
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
    layers.Cropping2D,
    layers.Cropping3D,
    layers.UpSampling2D,
    layers.UpSampling3D,
    layers.Resizing,
    layers.CenterCrop,
    *ADAPTIVE,
)
def spatial(call):
    """Channels stay where they are."""
    return spatial_along(call, channel_axis(call.layer))


@rule_for(layers.ZeroPadding1D, layers.Cropping1D, layers.UpSampling1D)
def spatial_1d(call):
    """One-dimensional layers without a `data_format` have channels last."""
    return spatial_along(call, getattr(call.layer, "data_format", None) == "channels_first" or -1)


@rule_for(
    "MaxPool",
    "AveragePool",
    "AdaptiveMaxPool",
    "AdaptiveAveragePool",
    "Resize",
    "GaussianBlur",
    "PadImages",
    "CropImages",
)
def spatial_operation(call):
    """Pooling, resizing and the like as bare operations."""
    data_format = call.layer.data_format or keras.config.image_data_format()
    return spatial_along(call, -1 if data_format == "channels_last" else 1)


def spatial_along(call, axis):
    """Channels may lie on the channel axis or nowhere."""
    axis = axis % len(call.input_shapes[0])
    if set(lb.varying(call.inputs[0])) - {axis}:
        return call.barrier("works on axes along which channels lie")
    return call.inputs[0]


@rule_for(
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
)
def global_pooling(call):
    """Space collapses; channels stay."""
    axis = channel_axis(call.layer) % len(call.input_shapes[0])
    if set(lb.varying(call.inputs[0])) - {axis}:
        return call.barrier("pools axes along which channels lie")
    where = axis if call.layer.keepdims else -1
    return call.along(call.channels(0, axis), where)
