"""The layers that keras.applications defines for itself."""

from __future__ import annotations

from keras.src.applications.convnext import LayerScale, StochasticDepth
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer

from keras_dynhp.graph.registry import rule_for
from keras_dynhp.graph.rules.merging import merge


@rule_for(LayerScale)
def layer_scale(call):
    """ConvNeXt: a learned factor for every channel."""
    channels = call.channels(0)
    call.label(call.layer.gamma, channels)
    call.resize("projection_dim", channels)
    return call.inputs[0]


@rule_for(StochasticDepth)
def stochastic_depth(call):
    """ConvNeXt: drops a whole residual branch while training."""
    return call.inputs[0]


@rule_for(CustomScaleLayer)
def scaled_sum(call):
    """InceptionResNet: the first input plus the second times a constant."""
    return merge(call)
