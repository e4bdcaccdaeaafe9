"""The network, and how to read images from a file; the same on the server and on clients."""

from __future__ import annotations

import math
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from keras import layers

RATE = 1e-3


def build_model() -> keras.Model:
    """LeNet-5, compiled; 431,080 parameters."""
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(20, 5, activation="relu", name="conv_1"),
            layers.MaxPooling2D(),
            layers.Conv2D(50, 5, activation="relu", name="conv_2"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(500, activation="relu", name="hidden"),
            layers.Dense(10, name="logits"),
        ],
        name="lenet_5",
    )
    model.compile(
        keras.optimizers.Adam(RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def learning_rate(epoch: int, epochs: int) -> float:
    """Half a cosine over the whole run."""
    return RATE * 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def read_images(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Images in [0, 1] and their classes."""
    with np.load(path, allow_pickle=False) as file:
        return file["x"].astype("float32") / 255.0, file["y"].astype("int64")
