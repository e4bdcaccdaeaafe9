"""What TensorFlow remembers of the clusters a process has joined, in a process of its own."""

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


def test_a_worker_is_known(run_alone):
    """Two workers, and parameter servers, are in tests/callbacks/test_distribution.py."""
    assert run_alone(PROGRAM).split() == ["None", "MultiWorkerMirroredStrategy"]
