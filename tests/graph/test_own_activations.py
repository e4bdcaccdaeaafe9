"""Activations of one's own: what they are made of says whether neurons have to do with others."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

from benchmarks.exactness import check

ROUNDING = 1e-5


def neurons():
    inputs = keras.Input((6, 3))
    return inputs, L.Dense(8, name="stem")(inputs)


def model_of(inputs, x):
    x = L.Flatten()(x) if len(x.shape) > 2 else x
    return keras.Model(inputs, L.Dense(3)(x))


BY_THEMSELVES = {
    "gelu": lambda x: ops.gelu(x, approximate=True),
    "swish": lambda x: x * keras.activations.sigmoid(1.5 * x),
    "bounded": lambda x: ops.where(x > 0, ops.clip(x, -1.0, 2.0), 0.1 * x),
    "nothing": lambda x: x,
}
TOGETHER = {
    "centered": lambda x: x - ops.mean(x, axis=-1, keepdims=True),
    "turned": lambda x: x + ops.roll(x, 1, axis=-1),
    "back to front": lambda x: x * ops.flip(x, axis=-1),
    "maxout": lambda x: ops.maximum(x, ops.max(x, axis=-1, keepdims=True)),
    "a constant for each": lambda x: x * np.arange(1.0, x.shape[-1] + 1, dtype="float32"),
    "a bound for each": lambda x: ops.clip(x, 0.0, np.arange(x.shape[-1], dtype="float32")),
    "normalized": lambda x: ops.softmax(x, axis=-1) + x,
    "of the rank": lambda x: ops.tanh(x) if len(x.shape) != 3 else ops.softmax(x, axis=1),
    "by their number": lambda x: ops.tanh(x) / x.shape[-1] ** 0.5,
    "counted": lambda x: ops.relu(x) * ops.cast(ops.shape(x)[-1], "float32"),
    "many or few": lambda x: ops.softmax(x) if x.shape[-1] > 7 else ops.relu(x),
    "another from eight on": lambda x: ops.tanh(x) if x.shape[-1] > 7 else ops.relu(x),
    "other than it looks": lambda x: (
        ops.relu(x) if hasattr(x, "_keras_history") else x - x[..., :1]
    ),
    "a threshold for each": lambda x: ops.nan_to_num(x, nan=np.arange(8, dtype="float32")),
    "nothing symbolic": lambda x: tf.nn.softmax(x),  # Keras can't look into it
}


@pytest.mark.sweep("-Activation|gelu-")
@pytest.mark.parametrize("layer", ["Activation", "Dense", "EinsumDense", "Conv1D", "GRU"])
@pytest.mark.parametrize("name", [*BY_THEMSELVES, *TOGETHER])
def test_activations_of_ones_own(name, layer):
    """What keras.ops they are made of says whether a neuron has to do with the others."""
    inputs, x = neurons()
    activation = (BY_THEMSELVES | TOGETHER)[name]
    alone = name in BY_THEMSELVES
    if layer == "Activation":
        found = check(model_of(inputs, L.Activation(activation)(x)))
        assert max(found.copy_error, found.error) <= ROUNDING
        assert ("stem" in {group.name for group in found.groups}) == alone
        return
    sizes = {"Dense": (8,), "Conv1D": (8, 3), "GRU": (8,), "EinsumDense": ("abc,cd->abd", (6, 8))}
    made = getattr(L, layer)(*sizes[layer], activation=activation, name="own")
    found = check(model_of(inputs, made(x)))
    assert max(found.copy_error, found.error) <= ROUNDING
    assert ("own" in {group.name for group in found.groups}) == alone
    if not alone:
        assert any("may mix channels" in group.reason for group in found.groups.kept)
