"""What TensorFlow's allocator tells a client, in processes whose allocator counts."""

import os

SHARED = """
import statistics
import sys
import tensorflow as tf
sys.path.insert(0, sys.argv[1])
import conftest as federation
import keras_dynhp as dynhp
from keras_dynhp.federated import DynHPStrategy

peaks = []
for left in (0, 1 << 20):
    others = tf.random.uniform((left,))
    model = federation.build_model()
    strategy = DynHPStrategy(model, dynhp.Target(compression=2), rounds=4)
    strategy.start(federation.LocalGrid([federation.Node(1, budget="2MB")]))
    peaks.append([entry["peak_bytes"]["1"] for entry in strategy.history])
    del others
alone, beside = peaks
assert len(alone) == len(beside) == 4, peaks
assert all(0 < peak <= 2 * 2**20 for peak in alone + beside), peaks
# A round's peak depends on threads, once in a while by more.
assert abs(statistics.median(alone) - statistics.median(beside)) < 2**14, peaks
"""


CAPPED = """
import os
import keras
from keras_dynhp.federated.fitting import widths_that_fit
from keras_dynhp.federated.layout import Layout
from keras_dynhp.memory.budget import POOL_SHARE, Budget

layers = [keras.Input((500,)), keras.layers.Dense(1600), keras.layers.Dense(2)]
model = keras.Sequential(layers)
model.compile("adam", "mse")
layout = Layout(model)


def widths(budget):
    return widths_that_fit(layout, layout.everything(), budget, model, 8)


capped = widths(Budget("16MB"))
assert Budget("16MB").usable == int(POOL_SHARE * (16 << 20))
del os.environ["TF_CPU_BFC_MEM_LIMIT_IN_MB"]
assert capped == widths(Budget(int(POOL_SHARE * (16 << 20)))) < widths(Budget("16MB"))
"""


def test_what_others_left_in_memory_is_not_counted(run_alone):
    """Flower's simulation engine serves many clients in one process."""
    run_alone(SHARED, os.path.dirname(__file__), TF_CPU_ALLOCATOR_USE_BFC="1")


def test_a_part_fits_what_can_be_had_of_a_pool_that_may_not_grow(run_alone):
    """Planned with all of it, a part leaves no room for any batch."""
    run_alone(CAPPED, TF_CPU_ALLOCATOR_USE_BFC="1", TF_CPU_BFC_MEM_LIMIT_IN_MB="16")
