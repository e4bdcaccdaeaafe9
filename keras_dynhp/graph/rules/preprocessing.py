"""Preprocessing and augmentation: made for data, some of it harmless to channels."""

from __future__ import annotations

import keras

from keras_dynhp.graph import labels as lb
from keras_dynhp.graph.registry import rule_for
from keras_dynhp.graph.rules.convolution import channel_axis

layers = keras.layers


def of(*names):
    """The layers of these names that this Keras has."""
    return [getattr(layers, name) for name in names if hasattr(layers, name)]


@rule_for(
    *of(
        "RandomCrop",
        "RandomElasticTransform",
        "RandomFlip",
        "RandomGaussianBlur",
        "RandomPerspective",
        "RandomRotation",
        "RandomShear",
        "RandomTranslation",
        "RandomZoom",
    )
)
def geometry(call):
    """Moves or blurs positions; every channel alike."""
    axis = channel_axis(call.layer) % len(call.input_shapes[0])
    if set(call.varies()) - {axis}:
        return call.barrier("works on axes along which channels lie")
    return call.inputs[0]


@rule_for(
    *of(
        "AugMix",
        "AutoContrast",
        "ContrastLimitedAdaptiveHistogramEqualization",
        "CutMix",
        "Equalization",
        "MaxNumBoundingBoxes",
        "MixUp",
        "RandAugment",
        "RandomBrightness",
        "RandomColorDegeneration",
        "RandomColorJitter",
        "RandomContrast",
        "RandomErasing",
        "RandomGrayscale",
        "RandomHue",
        "RandomInvert",
        "RandomPosterization",
        "RandomSaturation",
        "RandomSharpness",
        "Solarization",
    )
)
def colours(call):
    """Works on colours: fine in front of the network, a barrier inside it."""
    if call.varies():
        return call.barrier("mixes the colours of a picture")
    code = int(call.inputs[0].flat[0])
    return [lb.blank(len(shape), code) for shape in call.output_shapes]


@rule_for(
    *of(
        "CategoryEncoding",
        "Discretization",
        "HashedCrossing",
        "Hashing",
        "IntegerLookup",
        "MelSpectrogram",
        "STFTSpectrogram",
        "StringLookup",
        "TextVectorization",
    )
)
def encoding(call):
    """Makes features of data."""
    return call.features("encodes its input")
