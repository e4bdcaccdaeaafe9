"""Normalizations."""

from __future__ import annotations

import keras

from keras_dynhp.graph import labels as lb
from keras_dynhp.graph.registry import rule_for

layers = keras.layers


def label_along(call, axes, variables):
    """Variables that hold one value per position of `axes` of the input."""
    rank = len(call.input_shapes[0])
    vectors = []
    for axis in axes:
        axis %= rank
        vectors.append(call.channels(0, axis) if axis in lb.varying(call.inputs[0]) else None)
    for variable in variables:
        call.label(variable, *vectors)


@rule_for(layers.BatchNormalization)
def batch_normalization(call):
    """One mean, variance, scale and shift per channel."""
    layer = call.layer
    label_along(
        call,
        [layer.axis],
        [layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance],
    )
    return call.inputs[0]


@rule_for(layers.LayerNormalization, layers.RMSNormalization)
def across_channels(call):
    """Divides by a statistic over channels: a removed channel changes what is left."""
    rank = len(call.input_shapes[0])
    axes = call.layer.axis
    axes = {axis % rank for axis in (axes if isinstance(axes, (list, tuple)) else [axes])}
    if axes & set(call.varies()):
        return call.barrier("normalizes over channels, so removing one would change the others")
    return call.opaque("normalized by") if not call.varies() else call.inputs[0]


@rule_for(layers.UnitNormalization)
def unit_length(call):
    """Divides by a norm over channels, to which a zero adds nothing."""
    axes = call.layer.axis
    return unit_norm(call, axes if isinstance(axes, (list, tuple)) else [axes])


@rule_for("Normalize")
def unit_length_operation(call):
    """As a bare operation; every p-norm takes a zero for nothing."""
    return unit_norm(call, [call.layer.axis])


def unit_norm(call, axes):
    """A weightless read of the channels, which are then scaled and passed on."""
    rank = len(call.input_shapes[0])
    across = {axis % rank for axis in axes} & set(call.varies())
    if across:
        call.read(0, across.pop(), weightless=True)
        return call.inputs[0]
    return call.opaque("normalized by") if not call.varies() else call.inputs[0]


@rule_for(layers.GroupNormalization)
def group_normalization(call):
    """Every group of channels by itself: whole groups go."""
    layer = call.layer
    axis = layer.axis
    size = call.input_shapes[0][axis]
    groups = size if layer.groups == -1 else layer.groups
    if not call.varies():
        return call.opaque("normalized by")
    if call.varies() != (axis % len(call.input_shapes[0]),):
        return call.barrier("normalizes over the axis along which channels lie")
    channels = call.channels(0, axis).reshape(groups, -1)
    call.couple(channels[:, :1], channels)
    flat = channels.ravel()
    call.label(layer.gamma, flat)
    call.label(layer.beta, flat)
    per_group = channels.shape[1]

    def write(config, survivors, vector):
        config["groups"] = survivors.count(vector) // per_group

    call.resize("groups", flat, write)
    return call.inputs[0]


@rule_for(layers.Normalization)
def feature_normalization(call):
    """A fixed mean and variance per feature."""
    layer = call.layer
    if layer.input_mean is not None:
        call.pin(call.inputs[0], "its mean and variance are constants in its configuration")
        return call.inputs[0]
    label_along(call, layer._keep_axis, [layer.adapt_mean, layer.adapt_variance])
    return call.inputs[0]
