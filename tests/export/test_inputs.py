"""What goes into the file: inputs of every type and length, each with its own samples."""

import keras
import networks
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_dynhp.export.tflite import export_tflite


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "model.tflite")


@pytest.mark.parametrize("quantize", [None, "int8"])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_a_network_that_reads_words(dtype, quantize, path):
    """Their numbers reach the device as int32, and the arena is measured with words that exist."""
    tokens = keras.Input((12,), dtype=dtype)
    x = layers.Embedding(30, 8)(tokens) + layers.Embedding(12, 8)(ops.arange(12))
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4)(x, x))
    x = layers.Conv1D(8, 3, activation="relu")(x)
    model = networks.with_weights(
        keras.Model(tokens, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))
    )
    words = np.random.default_rng(0).integers(0, 30, (200, 12)).astype(dtype)
    report = export_tflite(model, path, quantize, words)
    assert report.inputs[0].dtype == "int32"
    assert report.agreement.samples == 200
    spread = np.ptp(np.asarray(model(words)))
    assert report.fidelity.worst_difference < (0.1 * spread if quantize else 1e-5)


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_open_lengths_become_those_of_the_samples(quantize, path):
    signal, mark = keras.Input((None, 3), name="signal"), keras.Input((2,), name="mark")
    encoder = keras.Sequential([keras.Input((None, 3)), layers.Conv1D(4, 3, activation="relu")])
    x = layers.GRU(5)(encoder(signal))
    outputs = layers.Dense(2)(layers.Concatenate()([x, mark]))
    model = networks.with_weights(keras.Model([signal, mark], outputs))
    random = np.random.default_rng(0)
    data = [random.normal(size=(200, 9, 3)).astype("float32"), random.normal(size=(200, 2))]
    report = export_tflite(model, path, quantize, data)
    assert [given.shape for given in report.inputs] == [(1, 9, 3), (1, 2)]
    assert report.macs > 0 and report.agreement.samples == 200
    spread = np.ptp(np.asarray(model(data)))
    assert report.fidelity.worst_difference < (0.05 * spread if quantize else 1e-5)
    assert model.inputs[0].shape == (None, None, 3)


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_pixels_of_a_camera_reach_the_device_as_the_numbers_they_are(quantize, path):
    model = networks.with_weights(
        keras.Sequential(
            [
                keras.Input((8, 8, 1), dtype="uint8"),
                layers.Rescaling(1 / 255),
                layers.Flatten(),
                layers.Dense(3),
            ]
        )
    )
    pixels = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 1), "uint8")
    report = export_tflite(model, path, quantize, pixels)
    assert report.inputs[0].dtype == (quantize or "float32")
    if quantize:  # a pixel less 128 is the byte to write
        assert report.inputs[0].scale == pytest.approx(1.0, abs=0.01)
        assert report.inputs[0].zero_point == -128
    spread = np.ptp(np.asarray(model(pixels)))
    assert report.fidelity.worst_difference < (0.03 * spread if quantize else 1e-4)


def test_layers_that_augment_leave_nothing_in_the_file(path):
    inputs = keras.Input((16, 16, 1))
    x = layers.RandomFlip()(inputs)
    for layer in (layers.RandomRotation(0.1), layers.RandomContrast(0.1), layers.GaussianNoise(1)):
        x = layer(x)
    augment = keras.Model(inputs, x)
    ends = [layers.Conv2D(4, 3, activation="relu"), layers.Flatten(), layers.Dense(2)]
    model = keras.Sequential([keras.Input((16, 16, 1)), augment, *ends])
    plain = keras.Sequential([keras.Input((16, 16, 1)), *ends])
    x = np.random.default_rng(0).random((100, 16, 16, 1), "float32")
    report = export_tflite(model, path, None, x)
    assert report.ops == export_tflite(plain, path, None, x).ops
    assert report.fidelity.worst_difference < 1e-5


def test_inputs_and_outputs_keep_their_order(path):
    wide, narrow = keras.Input((7,), name="z_wide"), keras.Input((3,), name="a_narrow")
    joined = layers.Concatenate()([wide, narrow])
    outputs = [layers.Dense(4)(joined), layers.Dense(2)(joined)]
    model = keras.Model([wide, narrow], outputs)
    random = np.random.default_rng(0)
    x = [random.normal(size=(150, 7)), random.normal(size=(150, 3))]
    report = export_tflite(model, path, "int8", x)
    assert [info.shape for info in report.inputs] == [(1, 7), (1, 3)]
    assert [info.shape for info in report.outputs] == [(1, 4), (1, 2)]
    assert report.fidelity.worst_difference < 0.1
    by_name = export_tflite(model, path, "int8", {"z_wide": x[0], "a_narrow": x[1]})
    assert by_name.fidelity == report.fidelity
    data = tf.data.Dataset.from_tensor_slices(((x[0], x[1]), np.zeros(150))).batch(10)
    assert export_tflite(model, path, "int8", data).fidelity.samples == 150


@pytest.mark.parametrize("swapped", [False, True])
def test_each_input_is_calibrated_by_its_own_samples(swapped, path):
    """The converter may order inputs otherwise, and of equal shapes nothing would be seen."""
    large, small = keras.Input((5, 4)), keras.Input((5, 4))
    x, y = layers.Conv1D(4, 2)(large), layers.GlobalAveragePooling1D()(small)
    parts = [layers.GlobalAveragePooling1D()(x), y]
    outputs = layers.Dense(2)(layers.Concatenate()(parts[::-1] if swapped else parts))
    model = networks.with_weights(keras.Model([large, small], outputs))
    random = np.random.default_rng(0)
    data = [scale * random.normal(size=(200, 5, 4)).astype("float32") for scale in (100.0, 0.1)]
    report = export_tflite(model, path, "int8", data)
    scales = [given.scale for given in report.inputs]
    assert scales[0] > 300 * scales[1], scales


def test_data_sets_of_every_kind(path):
    model = networks.with_weights(networks.lenet_300_100(0.1))
    x = networks.samples(model, 120)
    plain = tf.data.Dataset.from_tensor_slices(x)
    expected = export_tflite(model, path, "int8", x)
    for data in (plain, plain.batch(32), plain.map(lambda v: (v, 1)), plain.batch(7).repeat()):
        report = export_tflite(model, path, "int8", data)
        assert report.flash_bytes == expected.flash_bytes
    assert report.fidelity.samples == 1000


def test_attention_does_not_see_what_only_fills_a_sentence_up(path):
    tokens = keras.Input((8,), dtype="int32")
    x = layers.Embedding(20, 6, mask_zero=True)(tokens)
    x = x + layers.MultiHeadAttention(2, 3)(x, x)
    model = networks.with_weights(keras.Model(tokens, layers.Dense(3)(layers.Flatten()(x))))
    words = np.random.default_rng(0).integers(1, 20, (100, 8)).astype("int32")
    words[:, 5:] = 0
    report = export_tflite(model, path, None, words)
    assert report.fidelity.worst_difference < 1e-5


def test_recurrent_layers_with_dropout(path):
    inputs = keras.Input((6, 4))
    x = layers.Bidirectional(layers.LSTM(5, dropout=0.3, return_sequences=True))(inputs)
    x = layers.RNN(layers.GRUCell(4, recurrent_dropout=0.2))(x)
    model = networks.with_weights(keras.Model(inputs, layers.Dense(3)(x)))
    report = export_tflite(model, path, None, networks.samples(model, 50))
    assert report.fidelity.worst_difference < 1e-5
    assert model.layers[2].cell.recurrent_dropout == 0.2


def test_an_adapted_normalization_survives_the_copy_for_the_device(path):
    random = np.random.default_rng(0)
    data = random.normal(5, 3, (200, 6, 4)).astype("float32")
    norm = layers.Normalization()
    norm.adapt(data)
    inputs = keras.Input((6, 4))
    model = networks.with_weights(keras.Model(inputs, layers.Dense(3)(layers.LSTM(5)(inputs))))
    model = keras.Model(inputs, model(norm(inputs)))
    report = export_tflite(model, path, "int8", data)
    assert report.fidelity.worst_difference < 0.1 * report.fidelity.spread


@keras.saving.register_keras_serializable(package="tests")
class WithHead(keras.Model):
    """A layer beside the graph that training adds, and a configuration does not know."""

    def __init__(self, *args, head=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.head = layers.Dense(2) if head else None
        if head:
            self.head.build((None, 3))


def test_layers_beside_the_graph_stay_out_of_the_file(path):
    inputs = keras.Input((6, 4))
    outputs = layers.Dense(3)(layers.LSTM(5, dropout=0.2)(inputs))
    model = networks.with_weights(WithHead(inputs, outputs, head=True))
    report = export_tflite(model, path, None, networks.samples(model, 50))
    assert report.fidelity.worst_difference < 1e-5
