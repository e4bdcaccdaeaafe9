"""Real SuperLinks, SuperNodes and runs, each program in a process of its own."""

import importlib.util
import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import keras
import pytest

pytest.importorskip("flwr")

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "federated"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


launch = load("launch")


def test_programs_that_seed_alike_are_given_different_ports():
    """Two that listen on one port share its connections, and neither is told."""
    ports = set()
    for _ in range(3):
        random.seed(0)
        ports.add(load("launch").free_port())
    assert len(ports) > 1


@pytest.mark.slow
@pytest.mark.timeout(900)  # on a machine that has much else to do
def test_two_nodes_one_with_little_memory_and_a_server_that_dies(tmp_path):
    """Round 1; the server dies in round 2; the next run goes on from round 1 and ends complete."""
    lines = []
    # Adam on the full network needs more; the allocator itself holds the line.
    small = {"TF_CPU_ALLOCATOR_USE_BFC": "1", "TF_CPU_BFC_MEM_LIMIT_IN_MB": "2"}
    env = {"TF_CPU_ALLOCATOR_USE_BFC": "1", "CUDA_VISIBLE_DEVICES": "-1"}
    with launch.Federation(tmp_path, env=env) as federation:
        federation.start_node("large", {"seed": 1, "budget": "64MB"})
        federation.start_node("small", {"seed": 2, "budget": "2MB"}, env=small)
        config = {"out": str(tmp_path), "rounds": 2}
        federation.run(HERE / "app", {**config, "die-after": 1}, lines.append)
        assert not (tmp_path / "history.json").exists(), "\n".join(lines)
        federation.run(HERE / "app", config, lines.append)
        runs = json.loads(federation.flwr("ls", "here", "--format", "json"))["runs"]
        logs = {name: federation.log(name) for name in ("large", "small")}
    told = "\n".join(lines)
    assert (tmp_path / "history.json").exists(), f"{told}\n{logs}"
    history = json.loads((tmp_path / "history.json").read_text())
    assert "1 of 2 rounds done" in told
    assert [entry["round"] for entry in history] == [1, 2]
    assert [entry["clients"] for entry in history] == [2, 2], told
    assert not any(entry["refused"] for entry in history)
    assert history[-1]["accuracy"] > 0.8
    model = keras.models.load_model(tmp_path / "model.keras", compile=False)
    assert model.count_params() == history[-1]["params"] <= 99460 / 2

    first = history[0]
    assert sorted(n for n, _ in first["neurons_and_batch"].values())[-1] == 640
    (node, part) = min(first["neurons_and_batch"].items(), key=lambda item: item[1][0])
    assert part[0] < 640
    assert 0 < first["peak_bytes"][node] <= 2 * 2**20

    # Flower's own count of the second run's bytes holds what the strategy counted, and little more.
    traffic = max(runs, key=lambda run: run["running-at"])["network-traffic"]
    counted = history[1]["bytes_down"] + history[1]["bytes_up"]
    assert counted < traffic["total-bytes"] < 2 * counted + 60_000


@pytest.mark.slow
def test_a_node_without_a_registered_key_is_refused(tmp_path):
    keys = tmp_path / "keys"
    script = [sys.executable, str(EXAMPLE / "make_certificates.py"), f"--out={keys}", "--nodes=2"]
    subprocess.run(script, check=True)
    assert all(path.stat().st_mode & 0o077 == 0 for path in keys.glob("*.key"))
    with launch.Federation(tmp_path, certificates=keys) as federation:
        federation.flwr("supernode", "register", str(keys / "node_1.pub"), "here")
        federation.start_node("registered", key=keys / "node_1.key")
        federation.start_node("unregistered", key=keys / "node_2.key")
        federation.start_node("keyless")
        online = []
        until = time.monotonic() + 60
        while time.monotonic() < until:
            time.sleep(1)
            refused = [
                federation.processes[name].poll() not in (None, 0)
                for name in ("unregistered", "keyless")
            ]
            if not all(refused):
                continue
            listed = json.loads(federation.flwr("supernode", "ls", "here", "--format", "json"))
            online = [node for node in listed["nodes"] if node["status"] == "online"]
            if online:
                break
        logs = {name: federation.log(name) for name in ("superlink", "unregistered", "keyless")}
        assert federation.processes["registered"].poll() is None
    assert len(online) == 1, logs
    assert all(refused), logs
    assert not re.search("Traceback", logs["superlink"])
