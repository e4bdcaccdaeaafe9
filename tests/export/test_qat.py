"""Quantization-aware fine-tuning on the real tensorflow-model-optimization."""

import keras
import networks
import numpy as np
import pytest
from keras import layers

from keras_dynhp.export import qat

needs_extra = pytest.mark.skipif(
    bool(qat.missing_packages()), reason='needs the extra: pip install "keras-dynhp[qat]"'
)


def blobs(count, seed=0):
    """Images of four classes: noise, and a bright quarter that says which."""
    random = np.random.default_rng(seed)
    y = random.integers(0, 4, count)
    x = random.uniform(0, 0.6, size=(count, 8, 8, 1)).astype("float32")
    for number, label in enumerate(y):
        row, column = divmod(int(label), 2)
        x[number, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 0.4
    return x, y


@pytest.fixture(scope="module")
def trained():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(inputs)))
    inner = keras.Input((8, 8, 8))
    block = keras.Model(inner, layers.DepthwiseConv2D(3, padding="same")(inner))
    x = layers.Add()([x, block(x)])
    x = layers.Flatten()(layers.AveragePooling2D(4)(x))
    model = keras.Model(inputs, layers.Dense(4)(x))
    model.compile(
        keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.fit(*blobs(600), epochs=4, verbose=0)
    return model


@pytest.fixture
def hard_to_quantize(trained):
    """A channel that is nearly zero has huge weights to the classes: one scale is for them all."""
    before = [w.copy() for w in trained.get_weights()]
    norm = next(layer for layer in trained.layers if isinstance(layer, layers.BatchNormalization))
    block = next(layer for layer in trained.layers if isinstance(layer, keras.Model))
    first = np.arange(8) == 0
    for weight in (norm.gamma, norm.beta, block.layers[-1].bias):
        weight.assign(np.where(first, 1e-4, weight))
    kernel = trained.layers[-1].kernel
    kernel.assign(np.where(np.tile(first, 4)[:, None], 150.0, kernel))
    yield trained
    trained.set_weights(before)


@needs_extra
def test_fine_tuned_and_faithful(hard_to_quantize, tmp_path):
    path = str(tmp_path / "model.tflite")
    data = qat._batches(blobs(300, 1))
    hurt = qat.export_tflite(hard_to_quantize, path, "int8", data)
    assert hurt.float_accuracy > 0.95 and hurt.accuracy < hurt.float_accuracy - 0.05
    assert any("export_quantization_aware" in note for note in hurt.notes)
    weights = hard_to_quantize.get_weights()
    report = qat.export_quantization_aware(
        hard_to_quantize, path, blobs(600), data, epochs=4, learning_rate=0.003, margin=0.01
    )
    assert report.quantize == "int8" and report.inputs[0].dtype == "int8"
    assert not any("float32" in note for note in report.notes)
    assert report.accuracy > 0.95
    assert report.agreement.worst <= 1
    note = next(note for note in report.notes if "trained as" in note)
    assert float(note.split("within ")[1].split()[0]) < 8
    worse = qat.export_quantization_aware(
        hard_to_quantize, path, blobs(600), data, epochs=1, learning_rate=1.0, margin=0.01
    )
    assert worse.accuracy < hurt.accuracy
    assert any("made it worse" in note for note in worse.notes)
    # The given model stays as it is.
    for now, then in zip(hard_to_quantize.get_weights(), weights):
        np.testing.assert_array_equal(now, then)


@needs_extra
def test_what_loses_little_is_left_alone(trained, tmp_path):
    path = str(tmp_path / "model.tflite")
    data = qat._batches(blobs(300, 1))
    report = qat.export_quantization_aware(trained, path, blobs(100), data, margin=0.5)
    assert not any("quantization-aware" in note for note in report.notes)


@needs_extra
def test_layers_that_cannot_be_quantized_are_named(tmp_path):
    inputs = keras.Input((8, 4))
    x = layers.LSTM(4, name="memory")(layers.LayerNormalization(name="norm")(inputs))
    model = keras.Model(inputs, keras.ops.take(layers.Dense(3)(x), [0, 1], axis=1))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"norm \(LayerNormalization\), memory \(LSTM\), take"):
        qat.export_quantization_aware(model, str(tmp_path / "m.tflite"), (None, None))


@needs_extra
def test_an_unwritable_place_and_several_outputs_are_known_before_the_work(trained, tmp_path):
    with pytest.raises(FileNotFoundError, match="choose another path"):
        qat.export_quantization_aware(trained, str(tmp_path / "no" / "m.tflite"), (None, None))
    inputs = keras.Input((4,))
    model = keras.Model(inputs, [layers.Dense(2)(inputs), layers.Dense(2)(inputs)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"2 outputs.*quantize='int8'"):
        qat.export_quantization_aware(model, str(tmp_path / "m.tflite"), (None, None))


@needs_extra
def test_a_model_that_is_not_compiled(tmp_path):
    model = networks.lenet_300_100(0.1)
    with pytest.raises(ValueError, match="compile it first"):
        qat.export_quantization_aware(model, str(tmp_path / "m.tflite"), (None, None))


def test_without_the_extra(tmp_path, monkeypatch):
    model = networks.lenet_300_100(0.1)
    monkeypatch.setattr(qat.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"optimization and tf-keras: .*keras-dynhp\[qat\]"):
        qat.export_quantization_aware(model, str(tmp_path / "m.tflite"), (None, None))


@needs_extra
def test_names_that_keras_gives_do_not_meet_those_of_the_tool(tmp_path):
    """It splits a SeparableConv2D into layers that have the names of these."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(6, 3, name="conv2d"),
            layers.SeparableConv2D(4, 3),
            layers.DepthwiseConv2D(3, name="depthwise_conv2d"),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    path = str(tmp_path / "model.tflite")
    assert qat.export_quantization_aware(model, path, blobs(100), epochs=1).flash_bytes > 0
