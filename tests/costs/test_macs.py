"""Multiply-accumulates against counts worked out by hand and published ones."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_dynhp.costs.macs import count_macs, layer_macs, macs_if_known, register_macs


def macs_of(layer, *shapes):
    inputs = [keras.Input(shape) for shape in shapes]
    return count_macs(keras.Model(inputs, layer(*inputs)))


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (layers.Dense(7), (5,), 35),
        (layers.Dense(7), (4, 5), 4 * 35),
        (layers.EinsumDense("abc,cde->abde", (4, 3, 2)), (4, 5), 4 * 5 * 6),
        (layers.EinsumDense("...x,xy->...y", 3), (4, 5), 4 * 15),
        (layers.Conv1D(6, 3), (10, 4), 8 * 6 * 3 * 4),
        (layers.Conv2D(6, 3, strides=2, padding="same"), (9, 9, 4), 25 * 6 * 9 * 4),
        (layers.Conv2D(6, 3, groups=2), (9, 9, 4), 49 * 6 * 9 * 2),
        (layers.Conv2D(6, 3, dilation_rate=2), (9, 9, 4), 25 * 6 * 9 * 4),
        (layers.Conv3D(2, 2), (3, 3, 3, 4), 8 * 2 * 8 * 4),
        (layers.DepthwiseConv2D(3, depth_multiplier=2), (5, 5, 4), 9 * 8 * 9),
        (layers.SeparableConv2D(6, 3), (5, 5, 4), 9 * (4 * 9 + 4 * 6)),
        (layers.Conv2DTranspose(6, 3, strides=2), (5, 5, 4), 25 * 4 * 9 * 6),
        (layers.SimpleRNN(3), (6, 4), 6 * (4 * 3 + 9)),
        (layers.LSTM(3), (6, 4), 6 * 4 * (4 * 3 + 9)),
        (layers.GRU(3, return_sequences=True), (6, 4), 6 * 3 * (4 * 3 + 9)),
        (layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)]), (6, 4), 6 * (84 + 3 * (6 + 4))),
        (layers.Bidirectional(layers.LSTM(3)), (6, 4), 2 * 6 * 4 * (4 * 3 + 9)),
        (layers.TimeDistributed(layers.Conv2D(2, 3)), (6, 5, 5, 4), 6 * 9 * 2 * 9 * 4),
        (layers.ConvLSTM2D(2, 3, padding="same"), (3, 5, 5, 4), 3 * 25 * 9 * (4 + 2) * 8),
        (layers.SpectralNormalization(layers.Dense(7)), (5,), 35),
        (layers.BatchNormalization(), (5, 4), 0),
        (layers.PReLU(), (5, 4), 0),
        (layers.MaxPooling1D(), (6, 4), 0),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_layer(layer, shape, expected):
    assert macs_of(layer, shape) == expected


def test_attention():
    # Projections of 10 queries and 6 keys and values, all pairs of them, and the way back.
    layer = layers.MultiHeadAttention(num_heads=2, key_dim=4, value_dim=3)
    projections = 10 * 8 * 8 + 6 * 5 * 8 + 6 * 5 * 6 + 10 * 6 * 8
    assert macs_of(layer, (10, 8), (6, 5)) == projections + 10 * 6 * (8 + 6)
    grouped = layers.GroupQueryAttention(4, num_query_heads=4, num_key_value_heads=2)
    expected = 10 * 8 * 16 * 2 + 2 * 6 * 8 * 8 + 2 * 10 * 6 * 16
    assert macs_of(grouped, (10, 8), (6, 8)) == expected


def test_embedding_is_a_lookup():
    inputs = keras.Input((6,), dtype="int32")
    assert count_macs(keras.Model(inputs, layers.Embedding(100, 8)(inputs))) == 0


def test_bare_operations():
    a, b = keras.Input((3, 4)), keras.Input((4, 5))
    kernel = np.ones((3, 4, 6), "float32")
    outputs = {
        "product": ops.matmul(a, b),
        "by_constant": a @ np.ones((4, 2), "float32"),
        "einsum": ops.einsum("bij,bjk->bik", a, b),
        "conv": ops.conv(a, kernel, padding="same"),
        "tensordot": ops.tensordot(a, np.ones((4, 7), "float32"), axes=1),
        "sum": a * 2 + 1,
    }
    counted = list(layer_macs(keras.Model([a, b], outputs)).values())
    assert sorted(n for n in counted if n) == sorted([60, 24, 60, 3 * 4 * 3 * 6, 84])


def test_a_shared_layer_counts_every_call():
    shared = layers.Dense(3, name="shared")
    a, b = keras.Input((5,)), keras.Input((5,))
    model = keras.Model([a, b], layers.Add()([shared(a), shared(b)]))
    assert layer_macs(model)["shared"] == 30


def test_nested_models_are_opened_with_the_callers_shapes():
    inner = keras.Sequential(
        [keras.Input((None, None, 3)), layers.Conv2D(4, 3, name="conv")], name="inner"
    )
    inputs = keras.Input((9, 9, 3))
    model = keras.Model(inputs, layers.Flatten()(inner(inputs)))
    assert layer_macs(model)["inner/conv"] == 49 * 4 * 27
    with pytest.raises(ValueError, match="unknown length"):
        count_macs(inner)


def test_a_reshape_that_folds_the_sample_axis():
    inputs = keras.Input((6, 6, 2))
    rows = ops.reshape(inputs, (-1, 2))
    assert count_macs(keras.Model(inputs, layers.Dense(5)(rows))) == 36 * 10


def test_an_unknown_layer_and_its_rule():
    class Mixer(layers.Layer):
        def build(self, shape):
            self.mix = self.add_weight(shape=(shape[-1], 3))

        def call(self, x):
            return x @ self.mix

        def compute_output_shape(self, shape):
            return (*shape[:-1], 3)

    assert macs_of(Mixer(), (4, 5)) == 4 * 15

    class Taught(Mixer):
        pass

    register_macs(Taught)(lambda layer, call: 1234)
    assert macs_of(Taught(), (4, 5)) == 1234


def test_published_counts():
    # The figures of the papers: 300 million for MobileNetV2, 3.86 billion for ResNet-50.
    assert count_macs(keras.applications.MobileNetV2(weights=None)) == pytest.approx(
        300e6, rel=0.01
    )
    assert count_macs(keras.applications.ResNet50(weights=None)) == pytest.approx(3.86e9, rel=0.01)


def test_no_graph_is_an_error():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="subclassed"):
        count_macs(Subclassed())
    with pytest.raises(ValueError, match="unbuilt"):
        count_macs(keras.Sequential([layers.Dense(3)]))


@pytest.mark.parametrize(
    "layer",
    [
        layers.LSTM(4),
        layers.Bidirectional(layers.GRU(4)),
        layers.TimeDistributed(layers.Dense(4)),
        layers.Conv1D(4, 2),
        layers.Dense(4),
    ],
    ids=lambda layer: layer.name,
)
def test_an_axis_of_unknown_length_is_said_to_be_one(layer):
    model = keras.Sequential([keras.Input((None, 3)), layer])
    assert macs_if_known(model) is None
    with pytest.raises(ValueError, match="axis of unknown length"):
        count_macs(model)


@pytest.mark.parametrize("model", [None, "model.keras"])
def test_what_is_no_model(model):
    with pytest.raises(TypeError, match=r"`model` must be a keras.Model. Received: (str|NoneType)"):
        count_macs(model)
