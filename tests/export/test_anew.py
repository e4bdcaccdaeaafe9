"""Layers that the device cannot have as they are: made anew, with what is the user's in them."""

import keras
import networks
import numpy as np
import pytest
from keras import layers, ops

from keras_dynhp.export.tflite import export_tflite

HALF = 0.5  # a global of this module, which functions below read


def halved(x):
    return x * HALF


class Scaled(layers.Layer):
    """Nobody has registered it."""

    def __init__(self, by, **kwargs):
        super().__init__(**kwargs)
        self.by = by

    def call(self, x):
        return self.by * x

    def get_config(self):
        return {**super().get_config(), "by": self.by}


class Block(layers.Layer):
    """Makes the layers inside it itself, so that no configuration says what dtype they have."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units, self.dense, self.scaled = units, layers.Dense(units), Scaled(2.0)

    def call(self, x):
        return self.scaled(self.dense(x))

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Cell(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units))

    def call(self, x, states):
        state = ops.tanh(x @ self.kernel + 0.5 * states[0])
        return state, [state]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Table(layers.Layer):
    """Cannot be made anew: no configuration holds what it is given."""

    def __init__(self, values):
        super().__init__()
        self.values = ops.convert_to_tensor(values)

    def call(self, x):
        return x + self.values


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "model.tflite")


@pytest.fixture
def half_precision():
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


def recurrent(*more):
    inputs = keras.Input((5, 4))
    x = layers.LSTM(4)(inputs)
    for layer in more:
        x = layer(x)
    return networks.with_weights(keras.Model(inputs, layers.Dense(3, dtype="float32")(x)))


def same_on_the_device(model, path, quantize=None):
    report = export_tflite(model, path, quantize, networks.samples(model, 100))
    limit = 0.03 if quantize else 0.01
    assert report.fidelity.worst_difference < limit * report.fidelity.spread
    return report


def test_layers_and_functions_that_nobody_registered(half_precision, path):
    inputs = keras.Input((5, 4))
    x = layers.TimeDistributed(Block(4))(layers.RNN(Cell(6), return_sequences=True)(inputs))
    x = layers.LSTM(4, activation=lambda t: HALF * ops.tanh(t), return_sequences=True)(x)
    x = layers.Dense(5, activation=halved)(Scaled(1.5)(layers.Flatten()(x)))
    x = layers.Dense(5, activation=lambda t: t + HALF)(x)
    x = ops.cast(layers.Lambda(lambda t: t * HALF, output_shape=(5,))(x), "float16")
    model = keras.Model(inputs, layers.Dense(3, dtype="float32")(Block(4)(x)))
    model(np.zeros((1, 5, 4)))  # the blocks make their weights
    report = same_on_the_device(networks.with_weights(model), path)
    assert "CAST" not in {op.name for op in report.ops}
    assert keras.config.dtype_policy().name == "mixed_float16"


def test_a_layer_that_needs_no_change_is_not_made_anew(path):
    same_on_the_device(recurrent(Table(np.arange(4, dtype="float32"))), path, "int8")


def test_classes_of_one_name_in_two_layers(path):
    """As when a notebook's cell is run twice."""

    def made(change):
        class Same(layers.LSTM):
            def call(self, sequences, initial_state=None, mask=None, training=False):
                return change(super().call(sequences, initial_state, mask, training))

        return Same(3)

    parts = [layers.Reshape((2, 2)), made(lambda x: 2 * x)]
    parts += [layers.Reshape((3, 1)), made(lambda x: x - 1)]
    same_on_the_device(recurrent(*parts), path, "int8")


class Both(layers.Layer):
    def __init__(self, first, second, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = first, second

    def call(self, x):
        return self.first(self.second(x))

    def get_config(self):
        parts = {"first": self.first, "second": self.second}
        saved = {name: keras.saving.serialize_keras_object(part) for name, part in parts.items()}
        return {**super().get_config(), **saved}

    @classmethod
    def from_config(cls, config):
        parts = (config.pop(name) for name in ("first", "second"))
        return cls(*map(keras.saving.deserialize_keras_object, parts), **config)


def test_classes_of_one_name_in_one_layer_are_named(half_precision, path):
    other = type("Scaled", (Scaled,), {"__module__": "elsewhere"})
    model = recurrent(Both(Scaled(2.0), other(3.0)))
    with pytest.raises(ValueError, match=r"'both.*both called 'Scaled', .*Scaled and elsewhere\.S"):
        export_tflite(model, path)


def test_what_cannot_be_made_anew_is_named_with_the_reason(half_precision, path):
    model = recurrent(Table(np.arange(4, dtype="float16")))
    with pytest.raises(ValueError, match=r"'table.*\(Table\).*float32, not in half.*get_config"):
        export_tflite(model, path)
    never_called = keras.Model(
        inputs := keras.Input((5, 4)), layers.Flatten()(layers.TimeDistributed(Block(4))(inputs))
    )
    with pytest.raises(ValueError, match=r"has 0 weights, .*call the model once"):
        export_tflite(never_called, path)


def test_a_layer_that_remembers_is_refused(path):
    inputs = keras.Input(batch_shape=(1, 5, 4))
    model = keras.Model(inputs, layers.GRU(3, stateful=True, name="memory")(inputs))
    with pytest.raises(ValueError, match=r"'memory' \(GRU\) is stateful.*return_state=True"):
        export_tflite(model, path)


def test_a_class_of_its_own_with_layers_beside_the_graph_and_open_lengths(path):
    class WithHead(keras.Model):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.head = layers.Dense(2)
            self.head.build((None, 3))

    inputs = keras.Input((None, 4))
    x = layers.Conv1D(4, 2, activation=lambda t: ops.relu(t) * HALF)(Scaled(2.0)(inputs))
    model = networks.with_weights(WithHead(inputs, layers.Dense(3)(layers.GRU(3)(x))))
    x = np.random.default_rng(0).normal(size=(100, 6, 4)).astype("float32")
    report = export_tflite(model, path, "int8", x)
    assert report.fidelity.worst_difference < 0.1 * report.fidelity.spread
    assert report.inputs[0].shape == (1, 6, 4) and report.macs > 0
