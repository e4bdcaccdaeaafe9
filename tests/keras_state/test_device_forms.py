"""How Keras splits, repeats and activates, and the forms of that which a device has."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

from keras_dynhp.keras_state.device_forms import (
    gelu_as_sigmoid,
    positions_alone,
    repeats_as_resizing,
    splits_as_slices,
)

X = np.random.default_rng(0).normal(size=(2, 4, 6)).astype("float32")


@pytest.mark.parametrize("cell", [L.LSTM, L.GRU])
def test_cells_split_by_slices(cell):
    layer = cell(5, unroll=True)
    expected = layer(X)

    def operators():
        function = tf.function(lambda x: layer(x), autograph=False)
        concrete = function.get_concrete_function(tf.TensorSpec(X.shape))
        return {one.type for one in concrete.graph.get_operations()}, concrete(X)

    assert "Split" in operators()[0]
    with splits_as_slices():
        names, made = operators()
    assert "Split" not in names
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-6)


REPEATS = {
    "repeat": lambda x: ops.repeat(x, 3, axis=1),
    "repeat_last": lambda x: ops.repeat(x, 2, axis=-1),
    "tile": lambda x: ops.tile(x, (1, 3, 2)),
    "tile_last": lambda x: ops.tile(x, [2]),
    "repeat_vector": lambda x: L.RepeatVector(15)(x[:, 0]),
    "up_sampling_1d": L.UpSampling1D(3),
    "up_sampling_2d": lambda x: L.UpSampling2D((2, 3))(x[..., None]),
    "up_sampling_3d": lambda x: L.UpSampling3D(2)(x[..., None, None]),
}


@pytest.mark.parametrize("kind", REPEATS)
def test_repeats_by_resizing(kind):
    repeat = REPEATS[kind]

    def traced():
        concrete = tf.function(lambda x: repeat(x), autograph=False).get_concrete_function(
            tf.TensorSpec(X.shape)
        )
        return {one.type for one in concrete.graph.get_operations()}, concrete(X)

    names, expected = traced()
    assert names & {"Tile", "BroadcastTo"} and "ResizeNearestNeighbor" not in names
    with repeats_as_resizing():
        names, made = traced()
    assert "ResizeNearestNeighbor" in names and not names & {"Tile", "BroadcastTo"}
    np.testing.assert_array_equal(made, expected)


def test_other_repeats_stay_what_they_are():
    counts, words = np.array([1, 0, 2, 1]), tf.constant([[1, 2]])
    expected = np.repeat(X, counts, axis=1), np.repeat(X, 2), np.tile(X, (2, 1, 1, 1))
    with repeats_as_resizing():
        made = ops.repeat(X, counts, axis=1), ops.repeat(X, 2), ops.tile(X, (2, 1, 1, 1))
        assert ops.repeat(words, 2, axis=1).numpy().tolist() == [[1, 1, 2, 2]]
    for one, other in zip(made, expected):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("activate", "exact"),
    [
        (L.Activation("gelu"), True),
        (lambda x: L.Dense(5, activation="gelu", kernel_initializer="identity")(x), True),
        (ops.gelu, False),
        (lambda x: keras.activations.gelu(x, approximate=True), False),
    ],
    ids=["layer", "dense", "ops", "approximate"],
)
def test_gelu_by_a_sigmoid(activate, exact):
    x = np.linspace(-8, 8, 4000, dtype="float32").reshape(-1, 5)
    expected = activate(x)
    with gelu_as_sigmoid() as seen:
        made = activate(x)
    assert seen == [exact]
    off = np.abs(made - expected).max()
    assert 4e-4 < off < 5e-4 if exact else off < 2e-6
    activate(x)
    assert len(seen) == 1


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [-1, 1, None])
@pytest.mark.parametrize("find", [ops.argmax, ops.argmin])
def test_positions_by_one_operator(find, axis, keepdims):
    @tf.function
    def traced():
        return find(tf.constant(X), axis=axis, keepdims=keepdims)

    expected = find(X, axis=axis, keepdims=keepdims)
    with positions_alone():
        made = traced()
    names = {operation.type for operation in traced.get_concrete_function().graph.get_operations()}
    assert names & {"ArgMax", "ArgMin"} and not names & {"BitwiseAnd", "Bitcast", "SelectV2"}
    assert made.dtype == expected.dtype
    np.testing.assert_array_equal(made, expected)
