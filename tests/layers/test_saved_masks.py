"""Masked models survive a file, and a mask that is shared comes back shared."""

from __future__ import annotations

import keras
import pytest
from keras import layers as L

import keras_dynhp as dynhp
from benchmarks.exactness import difference, outputs_of, random_inputs, random_masks, randomize


def encoder_and_decoder():
    """Two layers share their units: each mask is inside two layers, and in front of others."""
    inputs = keras.Input((5, 3))
    _, *states = L.LSTM(4, return_state=True, name="encoder")(inputs)
    x = L.LSTM(4, name="decoder")(inputs, initial_state=states)
    return keras.Model(inputs, L.Dense(2)(x))


def mask_before_its_layer():
    """The group's mask stands in front of a reader before the layer that holds it inside."""
    inputs, steps = keras.Input((4,)), keras.Input((5, 3))
    state = L.Dense(4, name="state")(inputs)
    x = L.GRU(4)(steps, initial_state=state)
    return keras.Model([inputs, steps], L.Dense(2)(L.Concatenate()([L.Dense(3)(state), x])))


def heads():
    inputs = keras.Input((5, 6))
    x = L.MultiHeadAttention(4, 3, value_dim=4, name="mha")(inputs, inputs)
    return keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))


def read_inside_and_outside_a_model():
    inputs = keras.Input((4,))
    x = L.Dense(6, name="stem")(inputs)
    inside = keras.Input((6,))
    block = keras.Model(inside, L.Dense(5, name="deep")(inside), name="block")
    return keras.Model(inputs, L.Dense(2)(L.Concatenate()([block(x), L.Dense(3)(x)])))


@pytest.mark.parametrize(
    "make",
    [encoder_and_decoder, mask_before_its_layer, heads, read_inside_and_outside_a_model],
)
def test_shared_masks_come_back_shared(make, tmp_path):
    model = make()
    masked = dynhp.add_masks(model)
    randomize(masked)
    random_masks(masked)
    masked.save(tmp_path / "masked.keras")
    again = keras.models.load_model(tmp_path / "masked.keras")
    data = random_inputs(model)
    assert difference(outputs_of(masked, data), outputs_of(again, data)) == 0.0
    assert len(again.weights) == len(masked.weights)
    small = dynhp.rebuild(again)  # refuses neurons that are masked at some of their places only
    assert small.count_params() == dynhp.rebuild(masked).count_params()
    assert difference(outputs_of(masked, data), outputs_of(small, data)) <= 1e-5


def test_two_loads_share_nothing(tmp_path):
    masked = dynhp.add_masks(heads())
    masked.save(tmp_path / "masked.keras")
    one, other = (keras.models.load_model(tmp_path / "masked.keras") for _ in range(2))
    shared = {id(w) for w in one.weights} & {id(w) for w in (*other.weights, *masked.weights)}
    assert not shared


def test_weights_alone_survive_a_file(tmp_path):
    masked = dynhp.add_masks(encoder_and_decoder())
    randomize(masked)
    random_masks(masked)
    masked.save_weights(tmp_path / "masked.weights.h5")
    other = dynhp.add_masks(encoder_and_decoder())
    other.load_weights(tmp_path / "masked.weights.h5")
    data = random_inputs(masked)
    assert difference(outputs_of(masked, data), outputs_of(other, data)) == 0.0
