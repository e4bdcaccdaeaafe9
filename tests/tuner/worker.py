"""One process of a search in several: the chief or a worker, as KERASTUNER_TUNER_ID says."""

import os
import pathlib
import sys

import keras
import keras_tuner
import numpy as np

from keras_dynhp.tuner import PruningHyperModel


def build_model(hp):
    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(2)]
    )
    model.compile("adam", "mse")
    return model


def make_tuner(directory):
    return keras_tuner.RandomSearch(
        PruningHyperModel(build_model, target_range=(2, 5)),
        objective="val_loss",
        max_trials=4,
        directory=directory,
        project_name="search",
    )


class Tells(keras.callbacks.Callback):
    """Says on disk that a trial is being trained."""

    def __init__(self, directory):
        super().__init__()
        self.directory = directory

    def on_epoch_end(self, epoch, logs=None):
        me = os.environ["KERASTUNER_TUNER_ID"]
        (pathlib.Path(self.directory) / f"{me}_epoch_{epoch}").touch()


if __name__ == "__main__":
    x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    y = x[:, :2] ** 2
    make_tuner(sys.argv[1]).search(
        x, y, epochs=5, validation_data=(x, y), verbose=0, callbacks=[Tells(sys.argv[1])]
    )
