"""What TensorFlow Lite Micro has no operator for, in a form for which it has."""

import keras
import networks
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_dynhp.export import convert, flatbuffer
from keras_dynhp.export.device import device_report
from keras_dynhp.export.tflite import export_tflite


def decoder():
    """The end of an autoencoder or a U-Net."""
    inputs = keras.Input((4, 6, 3))
    x = layers.UpSampling2D()(layers.Conv2D(4, 3, padding="same", activation="relu")(inputs))
    return keras.Model(inputs, layers.Conv2D(3, 3)(x))


def decoder_of_channels_first():
    inputs = keras.Input((3, 4, 6))
    x = layers.UpSampling2D((3, 2), data_format="channels_first")(inputs)
    return keras.Model(inputs, layers.Dense(3)(x))


def sequence_autoencoder():
    inputs = keras.Input((5, 3))
    code = layers.GRU(4, unroll=True)(inputs)
    x = layers.GRU(4, return_sequences=True)(layers.RepeatVector(5)(code))
    return keras.Model(inputs, layers.Dense(3)(x))


def longer():
    inputs = keras.Input((6, 4))
    x = layers.Conv1D(4, 3, padding="same")(layers.UpSampling1D(2)(inputs))
    return keras.Model(inputs, layers.Dense(2)(ops.tile(x, (1, 1, 3))))


def volume():
    inputs = keras.Input((2, 3, 2, 2))
    return keras.Model(inputs, layers.Dense(2)(layers.UpSampling3D(2)(inputs)))


ENLARGING = [decoder, decoder_of_channels_first, sequence_autoencoder, longer, volume]


@pytest.mark.sweep("int8|^(decoder|longer)-None")
@pytest.mark.parametrize("quantize", [None, "int8"])
@pytest.mark.parametrize("make", ENLARGING, ids=lambda make: make.__name__)
def test_what_repeats_numbers(make, quantize, tmp_path):
    model = networks.with_weights(make())
    data = networks.samples(model, 200)
    report = export_tflite(model, str(tmp_path / "m.tflite"), quantize, data)
    resized = sum(op.count for op in report.ops if op.name == "RESIZE_NEAREST_NEIGHBOR")
    assert resized == {volume: 3, longer: 2}.get(make, 1)
    assert report.fidelity.worst_difference < (0.15 if quantize else 1e-5)
    # The runtimes round every step of a loop a little differently.
    steps = 5 if make is sequence_autoencoder else 1
    assert report.agreement.worst <= (steps if quantize else 1e-5)


@pytest.mark.sweep("^True|^False-(None|int8)")
@pytest.mark.parametrize("quantize", [None, "int8", "int16x8"])
@pytest.mark.parametrize("exact", [True, False])
def test_gelu(exact, quantize, tmp_path):
    inputs = keras.Input((16,))
    activation = "gelu" if exact else lambda x: keras.activations.gelu(x, approximate=True)
    hidden = layers.Dense(32, activation=activation)(inputs)
    model = networks.with_weights(keras.Model(inputs, layers.Dense(4)(hidden)))
    data = networks.samples(model, 200)
    report = export_tflite(model, str(tmp_path / "m.tflite"), quantize, data)
    assert {"LOGISTIC", "MUL"} < {op.name for op in report.ops}
    allowed = {None: 5e-3 if exact else 1e-5, "int8": 0.15, "int16x8": 0.15}[quantize]
    assert report.fidelity.worst_difference < allowed
    assert any("GELU" in note for note in report.notes) == exact
    assert not any("float32" in note for note in report.notes)


def leaky(x):
    return ops.where(x > 0, x, 0.1 * x)


def selected_in_two_ways(x):
    """Of one shape, and with a number that is spread: the converter makes SELECT and SELECT_V2."""
    return ops.where(x > 1, 1.0, leaky(x))


@pytest.mark.parametrize("quantize", [None, "int8"])
@pytest.mark.parametrize("activation", [leaky, selected_in_two_ways])
def test_select(activation, quantize, tmp_path):
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layers.Dense(4)(layers.Dense(16, activation=activation)(inputs)))
    data = networks.samples(networks.with_weights(model), 200)
    path = tmp_path / "m.tflite"
    report = export_tflite(model, str(path), quantize, data)
    count = {leaky: 1, selected_in_two_ways: 2}[activation]
    assert [op.count for op in report.ops if op.name == "SELECT_V2"] == [count]
    assert report.agreement.worst <= (1 if quantize else 1e-5)
    assert quantize or report.fidelity.worst_difference < 1e-5
    codes = [code.builtinCode for code in flatbuffer.read(path.read_bytes()).operatorCodes]
    assert flatbuffer.schema.BuiltinOperator.SELECT not in codes
    assert codes.count(flatbuffer.schema.BuiltinOperator.SELECT_V2) == 1


def test_select_of_rows_stays_what_it_is():
    """The old one takes a condition for each row, which the newer would take for the columns."""
    rows = tf.raw_ops.Select

    @tf.function(autograph=False)
    def function(condition, x):
        return {"output_0": rows(condition=condition, x=x, y=-x)}

    specs = tf.TensorSpec((3,), tf.bool, "input_0"), tf.TensorSpec((3, 3), tf.float32, "input_1")
    concrete = function.get_concrete_function(*specs)
    with pytest.raises(convert.UnsupportedOperatorError, match="SELECT"):
        convert.run_converter(concrete, [], lambda converter: None)


@pytest.mark.parametrize("quantize", [None, "int8"])
@pytest.mark.parametrize("find", ["argmax", "argmin"])
def test_classes(find, quantize, tmp_path):
    """Whole numbers are the same or not: three classes off is no worse than one."""
    inputs = keras.Input((9,))
    scores = layers.Dense(6)(layers.Dense(16, activation="relu")(inputs))
    model = networks.with_weights(keras.Model(inputs, getattr(ops, find)(scores, axis=-1)))
    x = networks.samples(model, 300)
    classes = model.predict(x, verbose=0)
    wrong = classes.copy()
    wrong[:30] = 5 - classes[:30]
    data = tf.data.Dataset.from_tensor_slices((x, wrong)).batch(50)
    report = export_tflite(model, str(tmp_path / "m.tflite"), quantize, data)
    assert report.quantize == quantize and report.outputs[0].dtype == "int32"
    assert {"argmax": "ARG_MAX", "argmin": "ARG_MIN"}[find] in {op.name for op in report.ops}
    off = report.fidelity.worst_difference
    assert off == 0 if quantize is None else off < 0.1
    assert report.float_accuracy == pytest.approx(0.9)
    assert report.accuracy == pytest.approx(0.9, abs=off + 1e-6)
    assert report.agreement.equal >= 0.99
    assert f"same as Keras     {100 * (1 - off):.2f}% of the values" in str(report)


def test_classes_of_another_model_are_told(tmp_path):
    inputs = keras.Input((9,))
    dense = layers.Dense(6)
    model = keras.Model(inputs, ops.argmax(dense(inputs), axis=-1))
    x = networks.samples(networks.with_weights(model), 100)
    path = str(tmp_path / "m.tflite")
    export_tflite(model, path, None, x)
    dense.kernel.assign(-dense.kernel)
    with pytest.warns(UserWarning, match=r"100\.0% of the file's outputs are not the model's"):
        device_report(path, model, x)
