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


PACKED = """
import numpy as np, tensorflow as tf
from keras_dynhp.memory import measure
from keras_dynhp.rebuild.release import pack, put_value

draw = np.random.default_rng(0)
held = [tf.Variable(tf.zeros(int(n))) for n in draw.integers(1000, 60000, 60)]
small = [tf.zeros(64) for _ in range(20)]
del held[::2]  # gaps of all sizes
before = measure.current_bytes()
kept = [tf.Variable(tf.zeros(20000)) for _ in range(15)]
for number, variable in enumerate(kept):
    put_value(variable, draw.normal(size=20000))
values = [variable.numpy() for variable in kept]
counted, asked = measure.current_bytes() - before, 15 * 80000
assert counted > 1.3 * asked, (counted, asked)  # else there is nothing to gain
pack(kept)
assert measure.current_bytes() - before < 1.11 * asked, (measure.current_bytes() - before, asked)
assert all((variable.numpy() == value).all() for variable, value in zip(kept, values))
kept[0].assign_add(tf.ones(20000))
assert measure.current_bytes() - before < 1.11 * asked
"""


def test_packed_values_count_what_they_are(run_alone):
    run_alone(PACKED, TF_CPU_ALLOCATOR_USE_BFC="1")
