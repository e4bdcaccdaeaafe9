"""Several outputs: each is compared, and the worst is named."""

import pathlib

import keras
import networks
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_dynhp.export import measure, tflm
from keras_dynhp.export.device import device_report
from keras_dynhp.export.tflite import export_tflite

RANDOM = np.random.default_rng(0)
X = RANDOM.uniform(size=(200, 6)).astype("float32")


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "model.tflite")


def detector():
    """Its outputs have names: four classes, and a box."""
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation="relu")(inputs)
    outputs = {"kind": layers.Dense(4)(x), "box": layers.Dense(2)(x)}
    return networks.with_weights(keras.Model(inputs, outputs))


def test_the_second_output_is_compared_too(path):
    model = detector()
    export_tflite(model, path)
    last = next(layer for layer in model.layers if layer.output is model.outputs[1])
    last.set_weights([-weights for weights in last.get_weights()])
    with pytest.warns(UserWarning, match=r"outputs are up to .*\(output 'kind'\)"):
        report = device_report(path, model, X)
    assert report.fidelity.output == "kind" and "(output 'kind')" in str(report)
    assert report.fidelity.worst_difference > report.fidelity.spread / 2


def test_a_runtime_that_computes_the_second_output_wrongly_is_warned_of(path, monkeypatch):
    model, run = detector(), tflm.run
    assert [symbol.shape[1] for symbol in model.outputs] == [2, 4]  # Keras sorts keys
    monkeypatch.setattr(tflm, "run", lambda *args: [run(*args)[0], run(*args)[1] ^ 64])
    with pytest.warns(UserWarning, match=r"\(output 'kind'\), more than the file is off"):
        report = export_tflite(model, path, "int8", X)
    assert report.agreement.worst >= 64 and report.agreement.output == "kind"
    assert 0 < report.agreement.equal < 1


def test_an_output_that_is_not_a_number_is_named(path):
    inputs = keras.Input((6,))
    outputs = {"fine": layers.Dense(2)(inputs), "log": ops.log(inputs - 0.5)}
    with pytest.raises(ValueError, match="output 'log' is NaN"):
        export_tflite(keras.Model(inputs, outputs), path, None, X)


@pytest.mark.parametrize("labels", ["dict", "one of them", "tuple"])
def test_labels_of_several_outputs(labels, path):
    model = detector()
    made = model(X)
    y = {"box": np.asarray(made["box"]), "kind": np.asarray(made["kind"]).argmax(-1)}
    given = {"dict": y, "one of them": {"kind": y["kind"]}, "tuple": (y["box"], y["kind"])}
    data = tf.data.Dataset.from_tensor_slices((X, given[labels], np.ones(200))).batch(40)
    report = export_tflite(model, path, None, data)
    assert report.accuracy == report.float_accuracy == 1.0
    assert report.fidelity.accuracy_output == "kind"


def test_labels_that_fit_no_output_are_told(path):
    data = tf.data.Dataset.from_tensor_slices((X, {"other": X})).batch(40)
    report = export_tflite(detector(), path, None, data)
    assert any("labels fit none of the outputs ['box', 'kind']" in note for note in report.notes)


@pytest.mark.skipif(
    keras.__version__.startswith("3.12."), reason="Keras 3.12 writes no such files itself"
)
def test_a_file_of_another_maker_orders_outputs_as_it_likes(path):
    """A signature names them."""
    model = detector()
    model.export(path, format="litert", verbose=False)
    report = device_report(path, model, X)
    assert report.fidelity.worst_difference < 1e-5
    other = keras.Sequential([keras.Input((6,)), layers.Dense(2)])
    with pytest.raises(ValueError, match="the file is not one of"):
        measure.interface(pathlib.Path(path).read_bytes(), other)
