"""What a file or a configuration makes of a layer is followed as the layer itself is."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

import keras_dynhp as dynhp
from benchmarks.exactness import check, difference, outputs_of, random_inputs

ROUNDING = 1e-5
rng = np.random.default_rng(0)


def test_a_slice_is_followed_in_a_model_from_a_file(tmp_path):
    """A file has lists where a live model has tuples."""
    inputs = keras.Input((6, 3))
    x = L.Dense(8, name="stem")(inputs)
    model = keras.Model(inputs, L.Dense(3)(L.Dense(5)(x[:, -1, :6])))
    masked = dynhp.add_masks(model)
    for name, one in (("model", model), ("masked", masked)):
        one.save(tmp_path / f"{name}.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert dynhp.find_groups(again).to_dict() == dynhp.find_groups(model).to_dict()
    small = dynhp.rebuild(keras.models.load_model(tmp_path / "masked.keras"))
    data = random_inputs(model)
    assert difference(outputs_of(model, data), outputs_of(small, data)) <= ROUNDING


@pytest.mark.parametrize("activation", [tf.nn.relu, tf.tanh, ops.silu, tf.nn.softmax])
def test_functions_that_keras_has_under_the_same_name(activation):
    inputs = keras.Input((3,))
    own = L.Dense(6, activation=activation, name="own")(L.Dense(8, name="stem")(inputs))
    model = keras.Model(inputs, L.Dense(3)(own))
    found = check(model)
    assert max(found.copy_error, found.error) <= ROUNDING
    assert "stem" in {layer for group in found.groups for layer in group.layers}
    model.compile("adam", "mse")
    x, y = rng.normal(size=(32, 3)), rng.normal(size=(32, 3))
    hp = dynhp.PruneAndRebuild(dynhp.Target(compression=1.5))
    model.fit(x, y, epochs=4, callbacks=[hp], verbose=0)
    assert hp.on_target


def test_weights_that_began_as_a_given_matrix(tmp_path):
    """As Keras's recipe for word vectors has it."""
    tokens = keras.Input((6,), dtype="int32")
    start = keras.initializers.Constant(rng.normal(size=(20, 8)))
    x = L.Embedding(20, 8, embeddings_initializer=start, name="words")(tokens)
    model = keras.Model(tokens, L.Dense(3)(L.GlobalAveragePooling1D()(x)))
    found = check(model, inputs=[rng.integers(0, 20, (4, 6))])
    assert found.error <= ROUNDING and found.small.get_layer("words").output_dim < 8
    found.small.save(tmp_path / "small.keras")
    assert keras.models.load_model(tmp_path / "small.keras").count_params() < model.count_params()
