"""The user's own model becomes smaller: what its layers know beside variables comes along."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from keras import layers as L

import keras_dynhp as dynhp
from benchmarks.exactness import masked_in_place
from keras_dynhp.rebuild.in_place import rebuild_in_place
from keras_dynhp.rebuild.plan import plan_rebuild

WORDS = np.array([["one"], ["two"], ["three"], ["two"]])


def test_statistics_and_vocabularies():
    numbers, words = keras.Input((6,), name="numbers"), keras.Input((1,), dtype="string")
    data = np.random.default_rng(0).normal(3, 2, size=(4, 6)).astype("float32")
    norm, lookup = L.Normalization(), L.StringLookup(output_mode="one_hot")
    norm.adapt(data)
    lookup.adapt(tf.constant(WORDS))
    x = L.Concatenate()([norm(numbers), lookup(words)])
    model = keras.Model([numbers, words], L.Dense(2)(L.Dense(8, "relu", name="stem")(x)))
    model.compile("adam", "mse")
    inputs = [tf.constant(data), tf.constant(WORDS)]
    groups = dynhp.find_groups(model)
    keep = {"stem": np.arange(8) % 2 == 0}
    masked_in_place(model, groups, keep)
    before = model(inputs).numpy()
    rebuild_in_place(plan_rebuild(groups, groups.survivors(keep)))
    assert model.get_layer("stem").units == 4
    np.testing.assert_allclose(model(inputs).numpy(), before, rtol=1e-5, atol=1e-6)
    assert np.ptp(before) > 0.1
