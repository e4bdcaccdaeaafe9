"""What no file can be made of: operator and layer are named, and what to do."""

import os

import keras
import networks
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_dynhp.export import convert
from keras_dynhp.export.tflite import export_tflite


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "model.tflite")


def test_sizes_that_only_the_running_network_knows_are_refused(path):
    inputs = keras.Input((8,))
    some = layers.Lambda(lambda x: tf.boolean_mask(x, x > 0), output_shape=(), name="some")
    model = keras.Model(inputs, ops.sum(some(inputs), keepdims=True))
    with pytest.raises(convert.UnsupportedOperatorError, match="of layer some"):
        export_tflite(model, path)
    part = layers.Lambda(
        lambda x: x[:, : tf.cast(x[0, 0], tf.int32)], output_shape=(8,), name="part"
    )
    model = keras.Model(inputs, layers.Lambda(lambda x: 2 * x, name="twice")(part(inputs)))
    with pytest.raises(
        convert.UnsupportedOperatorError, match=r"STRIDED_SLICE of layer part.*befo"
    ):
        export_tflite(model, path)


def test_a_refusal_names_operator_and_layer(path):
    inputs = keras.Input((8,))
    x = layers.Dense(4, name="dense")(inputs)
    x = layers.Dense(4, name="dense_1")(x)
    odd = layers.Lambda(lambda t: tf.math.erfinv(t), name="odd_one")
    model = keras.Model(inputs, layers.Dense(2, name="last")(odd(x)))
    with pytest.raises(convert.UnsupportedOperatorError, match=r"Erfinv of layer odd_one\b"):
        export_tflite(model, path)
    # TensorFlow Lite has this one, TensorFlow Lite Micro has not.
    sorting = keras.Model(inputs, layers.Lambda(lambda t: tf.math.top_k(t, 2)[0], name="best")(x))
    with pytest.raises(convert.UnsupportedOperatorError, match="TOPK_V2 of layer best"):
        export_tflite(sorting, path)
    assert os.listdir(os.path.dirname(path)) == []


def test_what_the_runtime_refuses_names_operator_and_layer(path):
    # The converter quantizes EXP; TensorFlow Lite Micro has it for float32 only.
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layers.Dense(2)(ops.exp(layers.Dense(4)(inputs))))
    with pytest.raises(
        convert.UnsupportedOperatorError, match=r"EXP of layer exp: .*another `quan"
    ):
        export_tflite(model, path, "int8", networks.samples(model, 100))
    assert os.listdir(os.path.dirname(path)) == []


@pytest.mark.parametrize(
    ("step", "named"),
    [
        (lambda x: tf.cast(tf.cast(x, tf.int32) // 2, tf.float32), "FLOOR_DIV of layer looping "),
        (lambda x: tf.math.top_k(x, 8)[0], "TOPK_V2 of layer looping "),
        (tf.math.erfinv, "Erfinv of layer looping"),
    ],
)
def test_what_is_refused_inside_a_loop_is_named(step, named, path):
    def three_times(x):
        return ops.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, step(x)), (0, x))[1]

    inputs = keras.Input((8,))
    x = layers.Dense(8, name="first")(inputs)
    x = layers.Lambda(three_times, output_shape=(8,), name="looping")(x)
    model = keras.Model(inputs, layers.Dense(2, name="last")(x))
    with pytest.raises(convert.UnsupportedOperatorError, match=named) as refused:
        export_tflite(model, path)
    assert "outside the model" in str(refused.value)


def test_what_has_no_integer_form_is_said(path):
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layers.Dense(2)(ops.sin(layers.Dense(4)(inputs))))
    x = networks.samples(model, 100)
    report = export_tflite(model, path, "int8", x)
    assert any("SIN of sin" in note for note in report.notes)
    with pytest.raises(
        convert.UnsupportedOperatorError, match=r"int16 kernel for SIN of layer sin"
    ):
        export_tflite(model, path, "int16x8", x)


def test_a_loop_that_cannot_be_unrolled_is_refused(path):
    inputs = keras.Input((8,))

    def twice(x):
        return ops.while_loop(lambda i, x: i < 2, lambda i, x: (i + 1, x * 2), (0, x))[1]

    model = keras.Model(inputs, layers.Lambda(twice, output_shape=(8,), name="looping")(inputs))
    with pytest.raises(convert.UnsupportedOperatorError, match="WHILE of looping"):
        export_tflite(model, path, "int8", networks.samples(model, 100))
