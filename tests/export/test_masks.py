"""Attention that hides positions: what is hidden is far below, and yet int8 holds the rest."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_dynhp.export.tflite import export_tflite


def causal(x):
    return layers.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True)


def with_dropout(x):
    return layers.MultiHeadAttention(2, 4, dropout=0.1)(x, x, use_causal_mask=True)


def padding(x):
    return layers.MultiHeadAttention(2, 4)(x, x)


def plain_attention(x):
    return layers.Attention()([x, x], use_causal_mask=True)


@pytest.mark.parametrize(
    ("attend", "quantize"),
    [
        (causal, "int8"),
        (with_dropout, None),
        (with_dropout, "int8"),
        (padding, "int8"),
        (plain_attention, "int8"),
    ],
)
def test_hidden_positions(attend, quantize, tmp_path):
    words = keras.Input((12,), dtype="int32")
    wide = keras.initializers.RandomNormal(stddev=1.5)  # scores that differ
    x = layers.Embedding(30, 8, mask_zero=True, embeddings_initializer=wide)(words)
    model = keras.Model(words, layers.Dense(5)(attend(x)))
    data = np.random.default_rng(0).integers(1, 30, (100, 12))
    data[::2, 7:] = 0
    report = export_tflite(model, str(tmp_path / "model.tflite"), quantize, data)
    limit = 0.04 if quantize else 1e-5
    assert report.fidelity.worst_difference < limit * report.fidelity.spread
