"""A search in several processes survives the loss of one of them."""

import json
import socket
import time
from pathlib import Path

import pytest

from . import worker

SCRIPT = Path(worker.__file__)


@pytest.fixture
def start(start_alone):
    def start(name, directory, port):
        log = directory / f"{name}.log"
        environment = {
            "KERASTUNER_TUNER_ID": name,
            "KERASTUNER_ORACLE_IP": "127.0.0.1",
            "KERASTUNER_ORACLE_PORT": str(port),
        }
        return start_alone(SCRIPT, directory, output=log, errors=log, **environment)

    return start


def wait_for(found, processes, seconds=200):
    end = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < end, "nothing happened in time"
        for process in processes:
            assert process.exitcode in (None, 0), "a process ended with an error"
        time.sleep(0.1)
    return result


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_killed_in_a_trial_comes_back_to_it(tmp_path, monkeypatch, start):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    chief = start("chief", tmp_path, port)
    workers = [start(f"worker_{i}", tmp_path, port) for i in range(2)]
    try:
        wait_for(lambda: list(tmp_path.glob("worker_1_epoch_1")), [chief, *workers])
        workers[1].kill()
        workers[1].join()
        trials = [json.loads(p.read_text()) for p in tmp_path.glob("search/trial_*/trial.json")]
        assert any(trial["status"] == "RUNNING" for trial in trials)
        # What Kubernetes, or `srun` in a loop, does: the same worker again.
        workers[1] = start("worker_1", tmp_path, port)
        wait_for(lambda: chief.exitcode is not None, [chief, *workers])
        for process in workers:
            process.join(60)
        assert [process.exitcode for process in (chief, *workers)] == [0, 0, 0]
    finally:
        for process in (chief, *workers):
            process.kill()
            process.join()
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "chief")  # whose record of the search it is
    tuner = worker.make_tuner(tmp_path)
    trials = tuner.oracle.trials.values()
    assert [trial.status for trial in trials] == ["COMPLETED"] * 4
    for model, trial in zip(tuner.get_best_models(4), tuner.oracle.get_best_trials(4)):
        assert model.count_params() == trial.metrics.get_last_value("params") <= 354 / 2
