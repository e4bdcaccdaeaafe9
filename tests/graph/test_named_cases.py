"""Cases that the support matrix has no row for."""

from __future__ import annotations

import inspect

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_dynhp as dynhp
from benchmarks.exactness import check

ROUNDING = 1e-5


def test_channels_first():
    """Where the backend runs it; biases and columns may collide in Keras, so without biases."""
    inputs = keras.Input((3, 6, 6))
    first = {"data_format": "channels_first"}
    x = L.Conv2D(8, 3, use_bias=False, name="conv", **first)(inputs)
    x = L.ReLU()(L.BatchNormalization(axis=1)(x))
    x = L.Conv2D(5, 1, use_bias=False, name="next", **first)(x)
    x = L.GlobalAveragePooling2D(**first)(x)
    try:
        found = check(keras.Model(inputs, L.Dense(2)(x)))
    except Exception as error:
        pytest.skip(f"this backend has no channels-first kernels here: {type(error).__name__}")
    assert {group.name for group in found.groups} == {"conv", "next"}
    assert found.error <= ROUNDING


def test_channels_first_biases_that_may_meet_columns_are_kept():
    inputs = keras.Input((3, 6, 6))
    x = L.Conv2D(8, 3, name="conv", data_format="channels_first")(inputs)
    groups = dynhp.find_groups(keras.Model(inputs, L.Dense(2)(L.Flatten()(x))))
    assert not len(groups)
    assert "columns" in groups.kept[0].reason


def test_several_inputs_and_outputs_by_name():
    one, other = keras.Input((6, 6, 3), name="picture"), keras.Input((4,), name="facts")
    x = L.Conv2D(8, 3, name="stem")(one)
    facts = L.Dense(8, name="gate")(other)
    y = L.Multiply()([x, L.Reshape((1, 1, 8))(facts)])
    outputs = {
        "class": L.Dense(3)(L.GlobalAveragePooling2D()(y)),
        "map": L.Conv2D(1, 1)(x),
        "facts": L.Dense(2)(facts),
    }
    model = keras.Model({"picture": one, "facts": other}, outputs)
    random = np.random.default_rng(0)
    data = {"picture": random.normal(size=(2, 6, 6, 3)), "facts": random.normal(size=(2, 4))}
    found = check(model, inputs=data)
    assert [set(group.layers) for group in found.groups] == [{"stem", "gate"}]
    assert set(found.small.output_names) == set(found.masked.output_names)
    assert found.copy_error <= ROUNDING
    assert found.error <= ROUNDING


def test_a_stateful_layer():
    inputs = keras.Input(batch_shape=(2, 5, 3))
    x = L.LSTM(6, stateful=True, name="lstm")(inputs)
    found = check(keras.Model(inputs, L.Dense(2)(x)))
    assert found.groups["lstm"].size == 6
    assert found.error <= ROUNDING


def test_masked_steps_reach_the_layer_behind_the_masks():
    inputs = keras.Input((6,), dtype="int32")
    x = L.Embedding(5, 8, mask_zero=True, name="embedding")(inputs)
    x = L.LSTM(6, return_sequences=True, name="one")(x)
    x = L.Bidirectional(L.GRU(4, name="two"))(x)
    found = check(keras.Model(inputs, L.Dense(2)(x)))
    assert found.copy_error <= ROUNDING
    assert found.error <= ROUNDING


def test_states_given_by_another_layer():
    steps, context = keras.Input((5, 3)), keras.Input((4,))
    states = [L.Dense(6, name="h")(context), L.Dense(6, name="c")(context)]
    x = L.LSTM(6, name="lstm")(steps, initial_state=states)
    found = check(keras.Model([steps, context], L.Dense(2)(x)))
    assert set(found.groups["h"].layers) == {"h", "c", "lstm"}
    assert found.error <= ROUNDING


def test_states_that_are_inputs_keep_the_units():
    steps, h = keras.Input((5, 3)), keras.Input((6,), name="h")
    x = L.GRU(6, name="gru")(steps, initial_state=h)
    groups = dynhp.find_groups(keras.Model([steps, h], L.Dense(2)(x)), prune_inputs=True)
    assert "gru" in {group.name for group in groups.kept}


# Keras 3.12, the newest for Python 3.10, knows no gate and errs about this shape.
HAS_GATE = "use_gate" in inspect.signature(L.MultiHeadAttention.__init__).parameters
ONE_HOT_BINS = L.Discretization(bin_boundaries=[0.0], output_mode="one_hot")(keras.Input((1,)))
BINS = "one_hot" if ONE_HOT_BINS.shape == (None, 2) else "int"


@pytest.mark.parametrize("options", [{"use_gate": False}, {"use_gate": True}] if HAS_GATE else [{}])
def test_attention_between_two_sequences(options):
    # Of equal lengths: Keras errs about the shape of other scores.
    one, other = keras.Input((4, 6)), keras.Input((4, 7))
    layer = L.MultiHeadAttention(4, 3, value_dim=4, output_shape=8, **options, name="mha")
    x, scores = layer(L.Dense(6)(one), L.Dense(7)(other), return_attention_scores=True)
    outputs = [L.Dense(2)(x), L.Dense(2)(L.Permute((2, 3, 1))(scores))]
    found = check(keras.Model([one, other], outputs))
    assert found.error <= ROUNDING
    assert {"mha:heads", "mha:value", "mha"} <= {group.name for group in found.groups}


def test_scores_that_are_an_output_keep_the_heads():
    inputs = keras.Input((4, 6))
    x, scores = L.MultiHeadAttention(4, 3, name="mha")(inputs, inputs, return_attention_scores=True)
    found = check(keras.Model(inputs, [L.Dense(2)(x), scores]))
    assert "mha:heads" in {group.name for group in found.groups.kept}
    assert found.error <= ROUNDING


def test_a_transformer_block():
    inputs = keras.Input((6, 8))
    x = L.Dense(8, name="embed")(inputs)
    y = L.MultiHeadAttention(4, 2, name="mha")(x, x, use_causal_mask=True)
    x = L.LayerNormalization()(x + y)
    y = L.Dense(8, name="down")(L.Dense(16, activation="gelu", name="up")(x))
    x = L.LayerNormalization()(x + y)
    found = check(keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(x))))
    assert {group.name for group in found.groups} == {"mha:heads", "up"}
    assert found.error <= ROUNDING


def test_preprocessing_in_front():
    inputs = keras.Input((8, 8, 3))
    x = L.Rescaling(1 / 255.0)(inputs)
    x = L.RandomContrast(0.1)(L.RandomFlip()(x))
    x = L.Conv2D(6, 3)(x)
    found = check(keras.Model(inputs, L.Dense(2)(L.Flatten()(x))), prune_inputs=True)
    assert found.groups.barriers == {}
    assert found.error <= ROUNDING


def test_encoded_features_can_be_selected():
    inputs = keras.Input((4,), dtype="int32")
    x = L.CategoryEncoding(num_tokens=9, output_mode="multi_hot")(inputs)
    found = check(keras.Model(inputs, L.Dense(2)(L.Dense(5)(x))), prune_inputs=True)
    assert max(group.size for group in found.groups) == 9
    assert found.error <= ROUNDING


def test_normalization_with_its_data():
    inputs = keras.Input((6,))
    norm = L.Normalization()
    norm.adapt(np.random.default_rng(0).normal(size=(20, 6)))
    x = L.Dense(5)(norm(inputs))
    found = check(keras.Model(inputs, L.Dense(2)(x)), prune_inputs=True)
    assert found.copy_error <= ROUNDING
    assert found.error <= ROUNDING


TEXTS = np.array([["one"], ["two"], ["three"], ["two"]])


@pytest.mark.parametrize(
    ("layer", "shape", "dtype", "data"),
    [
        (L.StringLookup(output_mode="one_hot"), (1,), "string", TEXTS),
        (L.TextVectorization(output_mode="multi_hot", pad_to_max_tokens=True, max_tokens=5),
         (1,), "string", TEXTS),
        (L.IntegerLookup(output_mode="one_hot"), (1,), "int64", np.array([[7], [3], [7], [9]])),
        (L.Discretization(num_bins=4, output_mode=BINS), (1,), "float32",
         np.array([[0.1], [1.0], [2.0], [5.0]], "float32")),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, L.Layer) else "",
)  # fmt: skip
def test_layers_that_learned_a_vocabulary(layer, shape, dtype, data):
    import tensorflow as tf

    data = tf.constant(data)
    layer.adapt(data)
    inputs = keras.Input(shape, dtype=dtype)
    x = layer(inputs)
    x = L.Dense(6, name="stem")(x if len(x.shape) == 2 else L.Flatten()(x))
    found = check(keras.Model(inputs, L.Dense(2)(x)), inputs=data)
    assert found.copy_error <= ROUNDING
    assert found.error <= ROUNDING
    assert found.groups["stem"].size == 6


def test_layers_of_unknown_length():
    inputs = keras.Input((None, 4))
    x = L.Conv1D(6, 3, padding="same")(inputs)
    x = L.GlobalMaxPooling1D()(L.Dense(5, activation="relu")(x))
    assert check(keras.Model(inputs, L.Dense(2)(x))).error <= ROUNDING


def test_unknown_picture_sizes():
    inputs = keras.Input((None, None, 3))
    x = L.Conv2D(6, 3, padding="same")(inputs)
    x = L.UpSampling2D()(L.MaxPooling2D()(L.BatchNormalization()(x)))
    x = L.GlobalAveragePooling2D()(x)
    assert check(keras.Model(inputs, L.Dense(2)(x))).error <= ROUNDING


def test_quantized_layers_keep_their_shape():
    model = keras.Sequential([keras.Input((8,)), L.Dense(8, name="a"), L.Dense(8), L.Dense(2)])
    model.layers[1].quantize("int8")
    groups = dynhp.find_groups(model)
    assert any("quantized" in reason for reason in groups.barriers.values())
