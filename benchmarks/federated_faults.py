"""A federation in which a client and the server are killed, against one left in peace.

    python -m benchmarks.federated_faults --kill=false --nodes=4 --rounds=24 --images=8000
    python -m benchmarks.federated_faults --kill=true --nodes=4 --rounds=24 --images=8000

Real SuperLinks and SuperNodes, and the example's app. With `--kill`, one client is killed in the
middle of a round and comes back later as a new node, and so is the server's program, which then
goes on from its state. Each run adds a line to benchmarks/results/federated.jsonl.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

from absl import app, flags

from benchmarks.federated import EXAMPLE, example, keep, write_split

CLIENT, SERVER = 3 / 8, 5 / 8  # how far the rounds are when they are killed
AFTER = 3.0  # seconds into the round
EVENTS = 4  # a client killed and started again, the server killed and started again

FLAGS = flags.FLAGS
flags.DEFINE_boolean("kill", True, "Whether anything is killed.")
flags.DEFINE_integer("timeout", 120, "Seconds that the server waits for clients in a round.")


def federate(folder: Path, kill: bool) -> list[str]:
    """Run the example's app to its end; returns what happened, in order."""
    launch = example("launch")
    events: list[str] = []

    def start(federation, number: int, name: str) -> None:
        data = str(folder / "data" / f"client_{number}.npz")
        federation.start_node(name, {"data": data, "budget": "64MB"})

    def at(share: float) -> int:
        return max(1, int(share * FLAGS.rounds))

    def kill_client(federation) -> None:
        federation.stop("client_0", how=9)
        events.append(f"killed client 0 in round {at(CLIENT)}")
        time.sleep(20)
        start(federation, 0, "client_0_again")
        events.append("client 0 joined as a new node")

    def kill_server(federation) -> None:
        # The SuperLink has it started by another program, in a process group of its own.
        program = f"flwr-serverapp .*{re.escape(federation.address)}"
        subprocess.run(["pkill", "-9", "-f", program], check=True)
        events.append(f"killed the server's program in round {at(SERVER)}")

    def watch(federation, line: str) -> None:
        print(line, flush=True)
        for share, what in ((CLIENT, kill_client), (SERVER, kill_server)):
            if f"[ROUND {at(share)}/" in line and what in left:
                left.remove(what)
                threading.Timer(AFTER, what, [federation]).start()

    left = [kill_client, kill_server] if kill else []
    config = {"out": str(folder), "rounds": FLAGS.rounds, "clients": FLAGS.nodes}
    config["timeout"] = float(FLAGS.timeout)
    with launch.Federation(folder, env={"TF_CPU_ALLOCATOR_USE_BFC": "1"}) as federation:
        for number in range(FLAGS.nodes):
            start(federation, number, f"client_{number}")
        for _ in range(1 + kill):
            federation.run(EXAMPLE / "app", config, lambda line: watch(federation, line))
            if (folder / "history.json").exists():
                break
            events.append("started the server again")
    return events


def main(argv):
    """Run, keep the result."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    folder = Path(FLAGS.work).resolve() / ("killed" if FLAGS.kill else "undisturbed")
    shutil.rmtree(folder, ignore_errors=True)
    write_split(folder / "data")
    began = time.time()
    events = federate(folder, FLAGS.kill)
    if FLAGS.kill and len(events) != EVENTS:
        raise SystemExit(f"Not all that should be killed was. It went so: {events}")
    if not (folder / "history.json").exists():
        raise SystemExit(f"The run did not end; its logs are in {folder}. It went so: {events}")
    history = json.loads((folder / "history.json").read_text())
    record = {name: FLAGS[name].value for name in ("nodes", "rounds", "images", "seed")}
    record |= {"case": "faults", "killed": FLAGS.kill, "events": events, "history": history}
    record |= {"accuracy": history[-1]["accuracy"], "params": history[-1]["params"]}
    keep(record, began)


if __name__ == "__main__":
    app.run(main)
