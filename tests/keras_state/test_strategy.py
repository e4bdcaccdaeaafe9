"""What TensorFlow remembers of the clusters a process has joined, in a process of its own."""

import os
import subprocess
import sys

from keras_dynhp.keras_state.strategy import strategy_of_cluster

PROGRAM = """
import json, os, socket
import tensorflow as tf
from keras_dynhp.keras_state.strategy import strategy_of_cluster
print(strategy_of_cluster())
with socket.socket() as probe:
    probe.bind(("localhost", 0))
    address = f"localhost:{probe.getsockname()[1]}"
task = {"cluster": {"worker": [address]}, "task": {"type": "worker", "index": 0}}
os.environ["TF_CONFIG"] = json.dumps(task)
tf.distribute.MultiWorkerMirroredStrategy()
print(strategy_of_cluster(), flush=True)
os._exit(0)
"""


def test_no_cluster():
    assert strategy_of_cluster() is None


def test_a_worker_is_known():
    """Two workers, and parameter servers, are in tests/callbacks/test_distribution.py."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["None", "MultiWorkerMirroredStrategy"]
