"""Metrics made before the first step are those that Keras would make in it."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dynhp.keras_state.metrics import build_metrics

X = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
CLASSES = np.arange(12) % 3
ONE_HOT = np.eye(3, dtype="float32")[CLASSES]


class Early(keras.callbacks.Callback):
    """Makes them where the pruning callbacks do."""

    def on_epoch_begin(self, epoch, logs=None):
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        build_metrics(self.model)
        if epoch == 0:
            metrics = self.model._compile_metrics
            self.was_built = metrics is not None and metrics.built


class Area(keras.metrics.AUC):
    """An object, made anew for each model."""

    def __init__(self):
        super().__init__(name="area")


class Counting(keras.layers.Dense):
    """Counts how often it is traced."""

    calls = 0

    def call(self, inputs):
        self.calls += 1
        return super().call(inputs)


def network(heads=1, cls=keras.Model):
    random.seed(0)
    inputs = keras.Input((4,))
    hidden = Counting(5)(inputs)
    outputs = [keras.layers.Dense(3, "softmax", name=name)(hidden) for name in "ab"[:heads]]
    model = cls(inputs, dict(zip("ab", outputs)) if heads > 1 else outputs[0])
    model.layers[1].calls = 0
    return model


def sequential():
    random.seed(0)
    model = keras.Sequential([keras.Input((4,)), Counting(5), keras.layers.Dense(3, "softmax")])
    model.layers[0].calls = 0
    return model


def streamed(*arrays):
    return (tf.data.Dataset.from_tensor_slices(arrays).batch(4),)


SPARSE, DENSE = "sparse_categorical_crossentropy", "categorical_crossentropy"
HEADS = {"a": CLASSES, "b": ONE_HOT}
CASES = {
    "classes": (network, SPARSE, {"metrics": ["accuracy"]}, (X, CLASSES)),
    "one hot": (network, DENSE, {"metrics": ["accuracy"]}, (X, ONE_HOT)),
    "sequential": (sequential, SPARSE, {"metrics": ["acc", SPARSE]}, (X, CLASSES)),
    "column": (network, SPARSE, {"metrics": ["accuracy"]}, (X, CLASSES[:, None])),
    "weighted": (
        network,
        DENSE,
        {"weighted_metrics": ["accuracy"], "metrics": ["mae", Area]},
        streamed(X, ONE_HOT, np.arange(12.0)),
    ),
    "heads": (
        lambda: network(2),
        {"a": SPARSE, "b": DENSE},
        {"metrics": {"a": ["accuracy"], "b": ["accuracy", "mse"]}},
        (X, HEADS),
    ),
}


def train(make, loss, options, data, callbacks):
    model = make()
    made = [m() if isinstance(m, type) else m for m in options.get("metrics", ())]
    if isinstance(options.get("metrics"), list):
        options = {**options, "metrics": made}
    model.compile("adam", loss, **options)
    history = model.fit(
        *data,
        batch_size=None if len(data) == 1 else 4,
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    ).history
    layer = next(layer for layer in model.layers if isinstance(layer, Counting))
    return model, history, layer.calls


@pytest.mark.parametrize("case", CASES)
def test_they_are_the_same(case):
    early = Early()
    plain, expected, _ = train(*CASES[case], [])
    model, history, _ = train(*CASES[case], [early])
    assert early.was_built
    assert list(history) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-6)

    def told(model):
        return [
            (type(m), m.name, getattr(m, "_fn", None), [v.shape for v in m.variables])
            for m in model.metrics
        ]

    assert told(model) == told(plain)


@pytest.mark.parametrize("case", ["classes", "sequential"])
def test_the_step_is_traced_once(case):
    # The day Keras does so itself, this module is not needed.
    assert train(*CASES[case], [])[2] == 2
    assert train(*CASES[case], [Early()])[2] == 1


class OwnStep(keras.Model):
    """Whose targets are made within the step."""

    def train_step(self, data):
        x, y = data
        y = keras.ops.one_hot(y, 3)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x, y, y_pred)
        self.optimizer.apply(tape.gradient(loss, self.trainable_weights), self.trainable_weights)
        return self.compute_metrics(x, y, y_pred)


class OwnMetrics(keras.Model):
    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, y[:, None], y_pred, sample_weight)


@pytest.mark.parametrize(("cls", "loss"), [(OwnStep, DENSE), (OwnMetrics, SPARSE)])
def test_what_the_users_own_code_decides_is_left_to_it(cls, loss):
    early = Early()
    case = (lambda: network(cls=cls), loss, {"metrics": ["accuracy"]}, (X, CLASSES))
    assert train(*case, [early])[1] == train(*case, [])[1]
    assert not early.was_built


def test_without_targets_metrics_or_fit():
    model = network()
    model.compile("adam", SPARSE)
    build_metrics(model)
    model.compile("adam", SPARSE, metrics=["accuracy"])
    build_metrics(model)
    assert not model._compile_metrics.built

    class OwnLoss(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.mean(y_pred)

    model, early = network(cls=OwnLoss), Early()
    model.compile("adam")
    model.fit(X, verbose=0, callbacks=[early])
    assert not early.was_built
