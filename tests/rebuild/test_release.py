from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dynhp.rebuild.release import put_value, release_variable


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64", "bool", "uint8"])
def test_a_released_variable_is_empty_and_can_be_filled_again(dtype):
    variable = keras.Variable(np.ones((2, 3)), dtype=dtype)
    release_variable(variable)
    assert variable.numpy().size == 0 and tuple(variable.shape) == (2, 3)
    put_value(variable, np.zeros((2, 3), variable.numpy().dtype))
    assert not np.any(variable.numpy().astype("float32"))
    variable.assign(np.ones((2, 3)))
    assert np.all(variable.numpy().astype("float32") == 1)


def test_training_a_released_variable_fails():
    variable = keras.Variable([1.0, 2.0])
    step = tf.function(lambda: variable.assign(variable - tf.constant([0.1, 0.1])))
    step()
    release_variable(variable)
    with pytest.raises(tf.errors.InvalidArgumentError):
        step()


def test_plain_tensorflow_variables_too():
    variable = tf.Variable([1.0, 2.0])
    release_variable(variable)
    assert variable.numpy().size == 0
