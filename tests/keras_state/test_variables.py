"""What Keras does when it makes variables."""

import keras
import numpy as np
import pytest

from keras_dynhp.keras_state.variables import initialized_by


def test_every_weight_of_a_model_passes_through():
    seen = []

    def note(variable, initializer, initialize):
        seen.append((variable, tuple(variable.shape), str(variable.dtype)))
        initialize(initializer)

    with initialized_by(note):
        model = keras.Sequential(
            [
                keras.Input((4, 4, 1)),
                keras.layers.Conv2D(3, 2),
                keras.layers.BatchNormalization(),
                keras.layers.Flatten(),
                keras.layers.Dropout(0.5, seed=1),
                keras.layers.Dense(2),
            ]
        )
    assert {id(v) for v in model.weights} <= {id(variable) for variable, _, _ in seen}
    for variable, shape, dtype in seen:
        assert (tuple(variable.shape), str(variable.dtype)) == (shape, dtype)


def test_it_ends_with_the_block_even_if_that_fails():
    with pytest.raises(KeyError), initialized_by(lambda *_: None):
        raise KeyError
    np.testing.assert_array_equal(keras.Variable("ones", shape=(2,)).numpy(), [1, 1])
