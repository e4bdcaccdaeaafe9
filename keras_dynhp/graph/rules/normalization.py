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


@rule_for(layers.LayerNormalization, layers.RMSNormalization, layers.UnitNormalization)
def across_channels(call):
    """Divides by a statistic over channels: a removed channel changes what is left."""
    layer = call.layer
    rank = len(call.input_shapes[0])
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    axes = {axis % rank for axis in axes}
    if axes & set(lb.varying(call.inputs[0])) or call.inputs[0].size == 1:
        return call.barrier("normalizes over channels, so removing one would change the others")
    return call.inputs[0]


@rule_for(layers.GroupNormalization)
def group_normalization(call):
    """Every group of channels by itself: whole groups go."""
    layer = call.layer
    axis = layer.axis
    size = call.input_shapes[0][axis]
    groups = size if layer.groups == -1 else layer.groups
    if axis % len(call.input_shapes[0]) not in lb.varying(call.inputs[0]):
        return call.barrier("normalizes over spatial positions and unfollowed channels")
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
