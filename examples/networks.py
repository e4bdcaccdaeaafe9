"""The networks of the examples and benchmarks: plain Keras, logits at the end.

Each takes a `width`, by which all its hidden layers are made narrower alike: what one would do for
a small network without pruning.
"""

from __future__ import annotations

import keras
from keras import layers


def lenet_300_100(input_shape=(28, 28, 1), classes: int = 10, width: float = 1.0) -> keras.Model:
    """LeNet-300-100: two hidden Dense layers (LeCun et al., 1998); 266,610 parameters."""
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Flatten(),
            layers.Dense(_scaled(300, width), activation="relu", name="hidden_1"),
            layers.Dense(_scaled(100, width), activation="relu", name="hidden_2"),
            layers.Dense(classes, name="logits"),
        ],
        name="lenet_300_100",
    )


def lenet_5(input_shape=(28, 28, 1), classes: int = 10, width: float = 1.0) -> keras.Model:
    """LeNet-5 as the pruning literature has it: 20-50-500, 5x5 kernels; 431,080 parameters."""
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Conv2D(_scaled(20, width), 5, activation="relu", name="conv_1"),
            layers.MaxPooling2D(),
            layers.Conv2D(_scaled(50, width), 5, activation="relu", name="conv_2"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(_scaled(500, width), activation="relu", name="hidden"),
            layers.Dense(classes, name="logits"),
        ],
        name="lenet_5",
    )


def resnet_8(input_shape=(28, 28, 1), classes: int = 10, width: float = 1.0) -> keras.Model:
    """ResNet-8 of the MLPerf Tiny benchmark: three residual blocks of 16, 32 and 64 channels."""

    def convolution(x, filters, size, strides=1):
        filters = _scaled(filters, width)
        x = layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    inputs = keras.Input(input_shape)
    x = layers.ReLU()(convolution(inputs, 16, 3))
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        y = layers.ReLU()(convolution(x, filters, 3, strides))
        y = convolution(y, filters, 3)
        if strides > 1:
            x = convolution(x, filters, 1, strides)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name="resnet_8")


def ds_cnn(input_shape=(49, 20, 1), classes: int = 10, width: float = 1.0) -> keras.Model:
    """DS-CNN of the MLPerf Tiny benchmark, for keywords: depthwise-separable, 64 channels."""

    def normalized(x):
        return layers.ReLU()(layers.BatchNormalization()(x))

    filters = _scaled(64, width)
    inputs = keras.Input(input_shape)
    x = layers.Conv2D(filters, (10, 4), strides=2, padding="same", use_bias=False)(inputs)
    x = layers.Dropout(0.2)(normalized(x))
    for _ in range(4):
        x = normalized(layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x))
        x = normalized(layers.Conv2D(filters, 1, use_bias=False)(x))
    x = layers.GlobalAveragePooling2D()(layers.Dropout(0.4)(x))
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name="ds_cnn")


def _scaled(units: int, width: float) -> int:
    return max(1, round(width * units))


NETWORKS = {network.__name__: network for network in (lenet_300_100, lenet_5, resnet_8, ds_cnn)}
