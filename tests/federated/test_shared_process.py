"""Flower's simulation engine serves many clients in one process."""

import os
import subprocess
import sys

CODE = """
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


def test_what_others_left_in_memory_is_not_counted():
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_CPU_ALLOCATOR_USE_BFC": "1"}
    code = CODE.format(tests=os.path.dirname(__file__))
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.strip().endswith("fine"), done.stderr[-2000:]
