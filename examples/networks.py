"""The networks of the examples and benchmarks: plain Keras, logits at the end."""

from __future__ import annotations

import keras
from keras import layers


def lenet_300_100(input_shape=(28, 28, 1), classes: int = 10) -> keras.Model:
    """LeNet-300-100: two hidden Dense layers (LeCun et al., 1998); 266,610 parameters."""
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Flatten(),
            layers.Dense(300, activation="relu", name="hidden_1"),
            layers.Dense(100, activation="relu", name="hidden_2"),
            layers.Dense(classes, name="logits"),
        ],
        name="lenet_300_100",
    )


def lenet_5(input_shape=(28, 28, 1), classes: int = 10) -> keras.Model:
    """LeNet-5 as the pruning literature has it: 20-50-500, 5x5 kernels; 431,080 parameters."""
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Conv2D(20, 5, activation="relu", name="conv_1"),
            layers.MaxPooling2D(),
            layers.Conv2D(50, 5, activation="relu", name="conv_2"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(500, activation="relu", name="hidden"),
            layers.Dense(classes, name="logits"),
        ],
        name="lenet_5",
    )


def resnet_8(input_shape=(28, 28, 1), classes: int = 10) -> keras.Model:
    """ResNet-8 of the MLPerf Tiny benchmark: three residual blocks of 16, 32 and 64 channels."""

    def convolution(x, filters, size, strides=1):
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


def ds_cnn(input_shape=(49, 20, 1), classes: int = 10) -> keras.Model:
    """DS-CNN of the MLPerf Tiny benchmark, for keywords: depthwise-separable, 64 channels."""

    def normalized(x):
        return layers.ReLU()(layers.BatchNormalization()(x))

    inputs = keras.Input(input_shape)
    x = layers.Conv2D(64, (10, 4), strides=2, padding="same", use_bias=False)(inputs)
    x = layers.Dropout(0.2)(normalized(x))
    for _ in range(4):
        x = normalized(layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x))
        x = normalized(layers.Conv2D(64, 1, use_bias=False)(x))
    x = layers.GlobalAveragePooling2D()(layers.Dropout(0.4)(x))
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name="ds_cnn")


NETWORKS = {network.__name__: network for network in (lenet_300_100, lenet_5, resnet_8, ds_cnn)}
