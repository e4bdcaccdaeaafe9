"""Reading TensorFlow's allocator, where it counts and where it does not."""

COUNTING = """
import tensorflow as tf
from keras_dynhp.memory import measure
assert measure.is_available()
before = measure.current_bytes()
x = tf.zeros((1 << 20,))
assert measure.current_bytes() - before >= 4 << 20
held = measure.current_bytes()
y = x + 1.0
del y
assert measure.peak_bytes() - held >= 4 << 20
measure.reset_peak()
assert measure.peak_bytes() == measure.current_bytes() == held
"""


SILENT = """
from keras_dynhp.memory import measure
assert not measure.is_available()
for ask in (measure.current_bytes, measure.peak_bytes, measure.reset_peak):
    try:
        ask()
    except RuntimeError as error:
        assert "TF_CPU_ALLOCATOR_USE_BFC=1" in str(error)
    else:
        raise AssertionError(ask)
"""


CAPPED = """
import math

import keras
from keras_dynhp.memory import Budget, measure
from keras_dynhp.memory.budget import POOL_SHARE
from tests.memory.test_budget import model

assert measure.hard_limit() == 16 << 20
built = model()
capped = Budget("16MB").largest_batch(built)

# What fits the budget but not what can be had of the pool is refused, rather than a batch of 0.
from keras_dynhp import BudgetError
from keras_dynhp.memory.estimate import StepMemory


def wide(channels):
    # All its memory is activations, so making it takes next to none.
    first = keras.layers.Conv2D(channels, 3)
    layers = [keras.Input((128, 128, 1)), first, keras.layers.GlobalAveragePooling2D()]
    built = keras.Sequential(layers)
    built.compile("adam", "mse")
    return built


needs = {n: Budget("16MB").predict(StepMemory(wide(n)).at(1)) for n in range(4, 200, 4)}
channels = next(n for n in needs if POOL_SHARE * (16 << 20) < needs[n] < 16 << 20)
assert Budget("16MB").largest_batch(wide(channels)) == 0
try:
    Budget("16MB").check(wide(channels))
except BudgetError as error:
    assert error.given == Budget("16MB").usable < error.needed == needs[channels]
    assert "allocator is capped" in str(error)
    assert f"in an allocator with {math.ceil(error.needed / POOL_SHARE)} bytes" in str(error)
else:
    raise AssertionError("not refused")

import os
del os.environ["TF_CPU_BFC_MEM_LIMIT_IN_MB"]
assert measure.hard_limit() is None
assert capped == Budget(int(POOL_SHARE * (16 << 20))).largest_batch(built) > 0
assert capped < Budget("16MB").largest_batch(built)
"""


def test_an_allocator_that_counts_is_read(run_alone):
    run_alone(COUNTING, TF_CPU_ALLOCATOR_USE_BFC="1")


def test_an_allocator_that_does_not_count_all_says_how_to_make_it(run_alone):
    run_alone(SILENT)


def test_a_pool_that_may_not_grow_is_not_filled_to_the_brim(run_alone):
    run_alone(CAPPED, TF_CPU_ALLOCATOR_USE_BFC="1", TF_CPU_BFC_MEM_LIMIT_IN_MB="16")
