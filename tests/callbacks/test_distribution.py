"""Distribution on TensorFlow's own engine, in processes of their own."""

import concurrent.futures
import json
import pathlib
import socket

import numpy as np
import pytest
import tensorflow as tf
from half_dead import live_params, network

from keras_dynhp.callbacks.checks import check_strategy

HERE = pathlib.Path(__file__).parent


@pytest.fixture
def run(run_alone, monkeypatch):
    """What processes tell that run at the same time, each with its own arguments."""
    monkeypatch.delenv("TF_CONFIG", raising=False)

    def run(program, *runs):
        with concurrent.futures.ThreadPoolExecutor() as pool:
            alone = lambda arguments: run_alone(HERE / program, *arguments)  # noqa: E731
            return [json.loads(told) for told in pool.map(alone, runs)]

    return run


def free_ports():
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("localhost", 0))
        return one.getsockname()[1], other.getsockname()[1]


def test_mirrored_strategy(run):
    [told] = run("two_devices.py", ["mirrored"])
    # The numbers of one device that never prunes.
    np.testing.assert_allclose(told["pruned"]["loss"], told["plain"]["loss"], rtol=1e-5)
    assert told["params"] == told["pruned"]["params"][-1] == live_params() + 64
    # Every replica has lost the same neurons and holds the same bits, optimizer included.
    assert told["shapes"][0] == told["shapes"][1] and [8, 6] in told["shapes"][0]
    assert told["bits"][0] == told["bits"][1] and len(told["bits"][0]) > 20
    # 40 samples in batches of 16: in each of 3 epochs each replica has 8, 8 and 4.
    assert told["batches"] == {"8": 6, "4": 3}
    # A budget is each replica's, so two have room for twice the batch.
    assert told["with_budget"]["alone"] == 7
    assert told["with_budget"]["both"] == [14.0]
    assert "with a batch of 1 needs" in told["with_budget"]["too_small"]


# The day one of these fails at "plain", Keras's own fit works with the strategy: then see whether
# ours does, and allow it in callbacks/checks.py.
def test_multi_worker_is_refused_until_keras_works_with_it(run):
    ports = free_ports()
    for told in run("two_workers.py", *(["multi_worker", i, *ports] for i in (0, 1))):
        assert told["replicas"] == 2
        assert "does not work with MultiWorkerMirroredStrategy" in told["ours"]
        assert "unsupported type" in told["ours"] and "issues/20585" in told["ours"]
        assert "unsupported type" in told["plain"] and "PerReplica" in told["plain"]


def test_parameter_servers_are_refused_until_keras_works_with_them(run):
    [told] = run("two_workers.py", ["parameter_server", *free_ports()])
    assert "does not work with ParameterServerStrategy" in told["ours"]
    assert "create_per_worker_dataset" in told["ours"]
    assert "create_per_worker_dataset" in told["plain"]


@pytest.mark.parametrize("kind", ["MultiWorkerMirroredStrategy", "ParameterServerStrategy"])
def test_a_model_made_under_such_a_strategy_is_refused(kind):
    # One worker alone makes no cluster, and Keras then calls callbacks.
    model = network()
    model.__dict__["_distribute_strategy"] = object.__new__(getattr(tf.distribute, kind))
    with pytest.raises(ValueError, match=f"does not work with {kind}"):
        check_strategy(model)
