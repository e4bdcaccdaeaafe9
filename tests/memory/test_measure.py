"""Reading TensorFlow's allocator, where it counts and where it does not."""

import os
import subprocess
import sys

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


def run(program: str, **environment: str) -> None:
    inherited = {k: v for k, v in os.environ.items() if k != "TF_CPU_ALLOCATOR_USE_BFC"}
    environment = {**inherited, **environment, "CUDA_VISIBLE_DEVICES": "-1"}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def test_an_allocator_that_counts_is_read():
    run(COUNTING, TF_CPU_ALLOCATOR_USE_BFC="1")


def test_an_allocator_that_does_not_count_all_says_how_to_make_it():
    run(SILENT)
