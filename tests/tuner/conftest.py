"""Small searches that several tests look at."""

import random

import keras
import keras_tuner
import numpy as np
import pytest


def build_model(hp=None):
    random.seed(1)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(32, "relu", name="first"),
            keras.layers.Dense(16, "relu", name="second"),
            keras.layers.Dense(2),
        ]
    )
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), "mse")  # less to trace than Adam
    return model


FULL = build_model().count_params()


@pytest.fixture(scope="session")
def data():
    random = np.random.default_rng(0)
    x = random.normal(size=(96, 8)).astype("float32")
    return {"x": x, "y": x[:, :2] ** 2, "validation_data": (x[:32], x[:32, :2] ** 2)}


@pytest.fixture
def grid(tmp_path):
    """A maker of grid searches in one project: making it again is what a restart does."""

    def make(hypermodel, project="search", **settings):
        return keras_tuner.GridSearch(
            hypermodel,
            objective="val_loss",
            directory=tmp_path,
            project_name=project,
            **{"max_trials": 10, "max_consecutive_failed_trials": 10, **settings},
        )

    return make
