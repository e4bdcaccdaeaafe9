"""Convolutions: plain, grouped, depthwise, separable, transposed."""

from __future__ import annotations

import keras
import numpy as np

from keras_dynhp.graph.records import ADAPTED
from keras_dynhp.graph.registry import rule_for
from keras_dynhp.graph.rules.activation import mixes_channels
from keras_dynhp.keras_state.graph import is_adapted

layers = keras.layers


def channel_axis(layer) -> int:
    """Where a layer with a `data_format` has its channels."""
    return -1 if layer.data_format == "channels_last" else 1


def keep_from_columns(call, neurons, columns):
    """Channels-first biases meet a mistake of Keras where there are as many filters as columns.

    `keras.ops.add` takes a bias of shape (1, n, 1, 1) for a vector and adds it along the last axis
    where that has length n, too (Keras 3.15).
    """
    if columns is None or columns <= len(neurons):
        call.pin(neurons, "Keras may add the bias of channels-first layers along columns")


def _finish(call, neurons):
    why = mixes_channels(call.layer.activation)
    if why:
        call.pin(neurons, why)
    if channel_axis(call.layer) == 1 and call.layer.bias is not None:
        keep_from_columns(call, neurons, call.output_shapes[0][-1])
    return call.along(neurons, channel_axis(call.layer))


@rule_for(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def convolution(call):
    """Reads channels, makes filters."""
    layer = call.layer
    if is_adapted(layer):
        return call.barrier(ADAPTED)
    if layer.groups > 1:
        return _grouped(call)
    channels = call.read(0, channel_axis(layer))
    filters = call.produce(layer.filters)
    spatial = [None] * layer.rank
    call.label(layer._kernel, *spatial, (channels, "in"), (filters, "out"))
    call.label(layer.bias, (filters, "out"))
    call.resize("filters", filters)
    return _finish(call, filters)


def _grouped(call):
    """Whole groups go, or equally many channels of each, whichever is the finer choice."""
    layer, groups = call.layer, call.layer.groups
    axis = channel_axis(layer)
    channels = call.channels(0, axis).reshape(groups, -1)
    filters = call.produce(layer.filters).reshape(groups, -1)
    spatial = [None] * layer.rank
    whole = (channels >= 0).all() and (filters >= 0).all() and groups >= filters.shape[1]
    # Input features become units only where they are read: in a masked model in front of this.
    whole = whole and not call.of_inputs(channels)
    if whole:
        for vector in (channels, filters):
            call.couple(channels[:, :1], vector)
        call.label(layer._kernel, *spatial, None, (filters.ravel(), "out"))

        def write(config, survivors, vector):
            config["groups"] = survivors.count(vector)

        call.resize("groups", filters[:, 0].copy(), write)
    else:
        channels = call.read(0, axis).reshape(groups, -1)
        call.couple(channels[:1], channels)
        call.couple(filters[:1], filters)
        call.label(layer._kernel, *spatial, (channels[0], "in"), (filters.ravel(), "out"))
    filters = filters.ravel()
    call.label(layer.bias, (filters, "out"))
    call.resize("filters", filters)
    return _finish(call, filters)


@rule_for(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def transposed(call):
    """As a convolution, with the kernel's last two axes swapped."""
    layer = call.layer
    channels = call.read(0, channel_axis(layer))
    filters = call.produce(layer.filters)
    spatial = [None] * layer.rank
    call.label(layer.kernel, *spatial, (filters, "out"), (channels, "in"))
    call.label(layer.bias, (filters, "out"))
    call.resize("filters", filters)
    return _finish(call, filters)


@rule_for(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def depthwise(call):
    """Every channel by itself, `depth_multiplier` times."""
    layer = call.layer
    channels = call.channels(0, channel_axis(layer))
    spatial = [None] * layer.rank
    call.label(layer.kernel, *spatial, channels, None)
    outputs = np.repeat(channels, layer.depth_multiplier)
    call.label(layer.bias, outputs)
    return _finish(call, outputs)


@rule_for(layers.SeparableConv1D, layers.SeparableConv2D)
def separable(call):
    """A depthwise convolution, then a pointwise one, without anything between them."""
    layer = call.layer
    channels = call.read(0, channel_axis(layer))
    filters = call.produce(layer.filters)
    spatial = [None] * layer.rank
    call.label(layer.depthwise_kernel, *spatial, (channels, "in"), None)
    deep = np.repeat(channels, layer.depth_multiplier)
    call.label(layer.pointwise_kernel, *spatial, (deep, "in"), (filters, "out"))
    call.label(layer.bias, (filters, "out"))
    call.resize("filters", filters)
    return _finish(call, filters)
