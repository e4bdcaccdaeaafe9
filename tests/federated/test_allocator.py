"""What TensorFlow's allocator tells a client, in processes whose allocator counts."""

import os
import subprocess
import sys

SHARED = """
import sys
import tensorflow as tf
sys.path.insert(0, {tests!r})
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
for one, other in zip(alone, beside):
    assert 0 < one <= 2 * 2**20 and abs(one - other) < 2**14, peaks
print("fine")
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
print("fine")
"""


def run(code, **environment):
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_CPU_ALLOCATOR_USE_BFC": "1", **environment}
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", **environment}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.strip().endswith("fine"), done.stderr[-2000:]


def test_what_others_left_in_memory_is_not_counted():
    """Flower's simulation engine serves many clients in one process."""
    run(SHARED.format(tests=os.path.dirname(__file__)))


def test_a_part_fits_what_can_be_had_of_a_pool_that_may_not_grow():
    """Planned with all of it, a part leaves no room for any batch."""
    run(CAPPED, TF_CPU_BFC_MEM_LIMIT_IN_MB="16")
