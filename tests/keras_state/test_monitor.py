"""Which way a metric gets better, asked of the Keras that is installed."""

import keras
import numpy as np
import pytest

from keras_dynhp.keras_state.fit import running_fit
from keras_dynhp.keras_state.monitor import is_higher_better, metric_names

X, Y = np.ones((8, 3), "float32"), np.arange(8) % 2


def test_what_keras_does_not_say_would_be_noticed():
    """The private fact: a metric has a direction, and Keras's monitor acts by it."""
    assert keras.metrics.BinaryAccuracy()._direction == "up"
    assert keras.metrics.MeanSquaredError()._direction == "down"


@pytest.mark.parametrize("prefix", ["", "val_"])
def test_names_and_directions_when_fit_begins(prefix):
    inputs = keras.Input((3,))
    outputs = {name: keras.layers.Dense(1, name=name)(inputs) for name in ("one", "two")}
    model = keras.Model(inputs, outputs)
    metrics = {"one": ["accuracy", "mae"], "two": [keras.metrics.MeanMetricWrapper(mean, "own")]}
    model.compile("sgd", "mse", metrics=metrics)
    names, found = [], {}

    def ask(logs):
        names.extend(metric_names(model, running_fit(model).epoch_iterator))
        for name in ("loss", "one_loss", "one_accuracy", "one_mae", "two_own", "nothing"):
            found[name] = is_higher_better(model, prefix + name)

    begin = keras.callbacks.LambdaCallback(on_train_begin=ask)
    data = X, {"one": Y[:, None], "two": Y[:, None]}
    history = model.fit(*data, verbose=0, callbacks=[begin]).history
    assert set(names) == set(history) and "two_own" in names
    assert found == {
        "loss": False,
        "one_loss": False,
        "one_accuracy": True,
        "one_mae": False,
        "two_own": None,
        "nothing": None,
    }


def mean(y, predicted):
    return keras.ops.mean(predicted)


class Own(keras.Model):
    def train_step(self, batch):
        return {"mine": super().train_step(batch)["loss"]}


def ask_in_fit(model, *data):
    told = []

    def ask(logs):
        told.append(metric_names(model, running_fit(model).epoch_iterator))

    callbacks = [keras.callbacks.LambdaCallback(on_train_begin=ask)]
    try:
        model.fit(*data, verbose=0, callbacks=callbacks)
    except ValueError as error:
        told.append(str(error))
    return told


def test_an_own_training_step_tells_after_an_epoch():
    inputs = keras.Input((3,))
    model = Own(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse", metrics=["mae"])
    assert ask_in_fit(model, X, Y[:, None]) == [None]


def test_what_is_wrong_with_the_data_is_left_to_fit():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse", metrics=["mae"])
    told, error = ask_in_fit(model, X[:, :2], Y[:, None])
    assert told is None and "incompatible" in error
