"""The ablation's own parts still fit where they are put."""

import keras
import numpy as np
import pytest

import keras_dynhp as dynhp
from benchmarks.ablation import VARIANTS, replaced
from benchmarks.alternatives import Scale


@pytest.mark.parametrize("name", ["trial_feedback", "criterion_scale"])
def test_a_network_becomes_small_with_what_was_exchanged(name):
    layers = [keras.layers.Dense(32), keras.layers.BatchNormalization(), keras.layers.ReLU()]
    model = keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, run_eagerly=True)  # nothing to trace, which takes longest
    random = np.random.default_rng(0)
    x, y = random.normal(size=(128, 8)), random.integers(0, 3, 128)
    variant = VARIANTS[name]
    with replaced(variant.parts):
        hp = dynhp.PruneAndRebuild(dynhp.Target(compression=4), **variant.arguments)
        losses = model.fit(x, y, epochs=8, verbose=0, callbacks=[hp]).history["loss"]
    assert model.layers[0].units <= 8
    assert np.isfinite(losses).all() and losses[-1] < losses[0]


def test_neurons_are_worth_the_square_of_their_scale():
    layers = [keras.layers.Dense(4, name="dense"), keras.layers.BatchNormalization()]
    model = keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(3)])
    model.layers[1].gamma.assign([1.0, -2.0, 0.0, 1.0])
    scores = Scale().scores(dynhp.find_groups(model))
    np.testing.assert_allclose(scores["dense"], [1 / 6, 4 / 6, 0, 1 / 6])
