"""The benchmark networks, and what fills them with weights as if trained."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers


def _width(filters: int, scale: float) -> int:
    return max(2, round(filters * scale))


def lenet_300_100(scale: float = 1.0) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((28, 28)),
            layers.Flatten(),
            layers.Dense(_width(300, scale), activation="relu"),
            layers.Dense(_width(100, scale), activation="relu"),
            layers.Dense(10, activation="softmax"),
        ],
        name="lenet_300_100",
    )


def lenet_5(scale: float = 1.0) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(_width(20, scale), 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(_width(50, scale), 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(_width(500, scale), activation="relu"),
            layers.Dense(10, activation="softmax"),
        ],
        name="lenet_5",
    )


def resnet_8(scale: float = 1.0) -> keras.Model:
    """Three residual blocks of two convolutions, as in MLPerf Tiny's image classification."""
    inputs = keras.Input((32, 32, 3))
    x = _conv(inputs, _width(16, scale), 3)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        filters = _width(filters, scale)
        y = layers.ReLU()(layers.BatchNormalization()(_conv(x, filters, 3, strides)))
        y = layers.BatchNormalization()(_conv(y, filters, 3))
        if strides > 1:
            x = _conv(x, filters, 1, strides)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x), name="resnet_8")


def _conv(x, filters: int, size: int, strides: int = 1):
    return layers.Conv2D(filters, size, strides=strides, padding="same")(x)


def ds_cnn(scale: float = 1.0) -> keras.Model:
    """Four depthwise separable blocks, as in MLPerf Tiny's keyword spotting."""
    width = _width(64, scale)
    inputs = keras.Input((49, 10, 1))
    x = layers.Conv2D(width, (10, 4), strides=2, padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for _ in range(4):
        x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Conv2D(width, 1, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(12, activation="softmax")(x), name="ds_cnn")


NETWORKS = {f.__name__: f for f in (lenet_300_100, lenet_5, resnet_8, ds_cnn)}


def with_weights(model: keras.Model, seed: int = 0) -> keras.Model:
    """The model with no weight left at the zero or one it began with, as training leaves it."""
    random = np.random.default_rng(seed)
    for layer in model._flatten_layers(include_self=False, recursive=True):
        for variable in layer._trainable_variables + layer._non_trainable_variables:
            if not variable.dtype.startswith(("float", "bfloat")):
                continue
            noise = random.normal(size=variable.shape).astype("float32")
            if variable.name in ("gamma", "moving_variance"):
                variable.assign(1 + 0.2 * np.tanh(noise))
            elif variable.name in ("bias", "beta", "moving_mean"):
                variable.assign(0.1 * noise)
    return model


def samples(model: keras.Model, count: int, seed: int = 0) -> np.ndarray:
    """Inputs in [0, 1] of the shape the model takes."""
    random = np.random.default_rng(seed)
    return random.uniform(size=(count, *model.inputs[0].shape[1:])).astype("float32")
