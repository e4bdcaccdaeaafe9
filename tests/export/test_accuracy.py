"""An accuracy is told where labels are classes, and nowhere else."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dynhp.export import measure
from keras_dynhp.export.device import device_report
from keras_dynhp.export.tflite import export_tflite

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("labels", "shape"),
    [
        (RANDOM.normal(size=(50, 2)), (50, 2)),  # a regression
        (RANDOM.uniform(size=(50, 6)), (50, 6)),  # an autoencoder
        (RANDOM.integers(0, 2, (50, 4)), (50, 4)),  # several labels at once
        (RANDOM.integers(0, 9, (50, 1)), (50, 1)),  # ratings
        (RANDOM.integers(0, 9, 50), (50, 4)),  # classes that there are no outputs for
        (np.array(["cat", "dog"] * 25), (50, 2)),
    ],
)
def test_what_is_no_class_has_no_accuracy(labels, shape):
    assert measure._accuracy(RANDOM.uniform(size=shape), labels, 0.5) is None


def test_classes_by_number_and_one_of_many():
    outputs = np.eye(3)[[0, 1, 2, 2]]
    assert measure._accuracy(outputs, np.array([0, 1, 2, 0]), 0.5) == 0.75
    assert measure._accuracy(outputs, np.eye(3)[[0, 1, 2, 0]], 0.5) == 0.75
    assert measure._accuracy(outputs[:, :1], np.array([True, False, False, True]), 0.5) == 0.75


def test_a_single_logit_says_the_second_class_from_zero_up(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.layers[0].set_weights([np.array([[0.4], [0.0]]), np.zeros(1)])
    x = RANDOM.uniform(-1, 1, size=(200, 2)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, (x[:, 0] > 0).astype(int))).batch(50)
    path = str(tmp_path / "model.tflite")
    export_tflite(model, path)
    assert device_report(path, model, data).accuracy == 1.0
