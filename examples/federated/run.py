"""Federated dynamic hard pruning on this machine: Fashion-MNIST over ten clients of three sizes.

    python examples/federated/run.py --out=runs/federated

Splits the images by a Dirichlet distribution, so that every client has its own mix of classes;
starts Flower's SuperLink, a SuperNode for each client, and the run; shows the rounds as they go.
Each client's TensorFlow can't have more memory than its budget. Writes to `--out`: model.keras,
model.tflite (int8), history.json, table.md and report.png; killed and started again, it goes on.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from absl import app, flags
from launch import Federation
from partition import memory_cap, split, write_images

from keras_dynhp.sizes import format_size, parse_size

APP = Path(__file__).parent / "app"
CALIBRATION = 500  # images that no client has, for the int8 file

FLAGS = flags.FLAGS
flags.DEFINE_string("out", "runs/federated", "The folder for what comes out.")
flags.DEFINE_integer("clients", 10, "How many clients.", lower_bound=1)
flags.DEFINE_list("budgets", "64MB,8MB,5MB", "Training memory of the clients, in turn.")
flags.DEFINE_float("alpha", 0.3, "Of the Dirichlet distribution: smaller is more uneven.")
flags.DEFINE_integer("examples", 20000, "Images for all clients together.", lower_bound=100)
flags.DEFINE_integer("rounds", 12, "Rounds of training.", lower_bound=1)
flags.DEFINE_float("compression", 10.0, "How many times fewer parameters.")
flags.DEFINE_integer("seed", 0, "Seeds the split.")


def write_data(folder: Path) -> list[int]:
    """A file for each client, one for the server; returns how many examples clients have."""
    sys.path.append(str(Path(__file__).parents[1]))
    from datasets import fashion_mnist

    folder.mkdir(parents=True, exist_ok=True)
    data = fashion_mnist()
    order = np.random.default_rng(FLAGS.seed).permutation(len(data.x_train))
    chosen = order[: FLAGS.examples]
    parts = split(data.y_train[chosen], FLAGS.clients, FLAGS.alpha, FLAGS.seed)
    for number, part in enumerate(parts):
        mine = chosen[part]
        write_images(folder / f"client_{number}.npz", data.x_train[mine], data.y_train[mine])
    rest = order[-CALIBRATION:]
    write_images(folder / "calibration.npz", data.x_train[rest], data.y_train[rest])
    write_images(folder / "test.npz", data.x_test, data.y_test)
    return [len(part) for part in parts]


def federate(out: Path, sizes: list[int]) -> None:
    """The whole run."""
    config = {"out": str(out), "rounds": FLAGS.rounds, "clients": FLAGS.clients}
    config["compression"] = FLAGS.compression
    with Federation(out, env={"TF_CPU_ALLOCATOR_USE_BFC": "1"}) as federation:
        for number, size in enumerate(sizes):
            budget = FLAGS.budgets[number % len(FLAGS.budgets)]
            data = out / "data" / f"client_{number}.npz"
            federation.start_node(
                f"client_{number}", {"data": str(data), "budget": budget}, env=memory_cap(budget)
            )
            print(f"Client {number}: {size} examples, {budget} of memory")
        status = federation.run(APP, config, show)
        runs = json.loads(federation.flwr("ls", "here", "--format", "json"))["runs"]
    if status or not (out / "history.json").exists():
        raise RuntimeError(f"The run did not end well; its logs are in {out}.")
    (out / "traffic.json").write_text(json.dumps(runs, indent=2))


def show(line: str) -> None:
    """The lines of Flower's log that tell something."""
    text = re.sub(r"\x1b\[\d+m", "", line)
    text = re.sub(r"^(INFO|WARNING|ERROR) *:", "", text).strip()
    if re.match(r"(.ROUND|Round|Node|Refused|DynHP|The network)", text) or "Error" in text:
        print(text, flush=True)


def table(history: list[dict]) -> str:
    """One row for each round."""
    rows = ["| round | clients | accuracy | widths | parameters | down | up | beside weights |"]
    rows.append("|---|---|---|---|---|---|---|---|")
    for e in history:
        down, up = e["bytes_down"], e["bytes_up"]
        beside = e["bytes_rest"] / (down + up - e["bytes_rest"])
        rows.append(
            f"| {e['round']} | {e['clients']} | {e['accuracy']:.2%} | "
            f"{'-'.join(map(str, e['widths']))} | {e['params']:,} | {format_size(down)} | "
            f"{format_size(up)} | {beside:.2%} |"
        )
    return "\n".join(rows)


def plot(history: list[dict], path: Path) -> None:
    """Accuracy, widths, bytes and memory over rounds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rounds = [e["round"] for e in history]
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    (accuracy, widths), (traffic, memory) = axes
    accuracy.plot(rounds, [100 * e["accuracy"] for e in history], marker="o")
    accuracy.set_title("test accuracy, %")
    for group in range(len(history[0]["widths"])):
        first = history[0]["widths"][group]
        widths.plot(rounds, [e["widths"][group] for e in history], label=f"group {group + 1}")
        widths.annotate(str(first), (rounds[0], first))
    widths.set_yscale("log")
    widths.set_title("neurons after the round")
    widths.legend()
    for way in ("down", "up"):
        traffic.plot(rounds, [e[f"bytes_{way}"] / 2**20 for e in history], label=way, marker="o")
    traffic.set_title("MB on the wire in the round")
    traffic.legend()
    for node in sorted({node for e in history for node in e["peak_bytes"]}):
        peaks = [e["peak_bytes"].get(node, np.nan) / 2**20 for e in history]
        memory.plot(rounds, peaks, color="tab:blue", alpha=0.6)
    for budget in FLAGS.budgets:
        memory.axhline(parse_size(budget) / 2**20, color="tab:red", linestyle="--")
    memory.set_yscale("log")
    memory.set_title("MB of training memory, each client (dashed: budgets)")
    for axis in axes.flat:
        axis.set_xlabel("round")
    figure.savefig(path, dpi=120)


def main(argv):
    """Split, run, export, tell."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    began = time.monotonic()
    # Whoever ends this program ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Terminated"))
    out = Path(FLAGS.out).resolve()
    sizes = write_data(out / "data")
    federate(out, sizes)

    import keras

    import keras_dynhp as dynhp

    history = json.loads((out / "history.json").read_text())
    model = keras.models.load_model(out / "model.keras", compile=False)
    with np.load(out / "data" / "calibration.npz") as file:
        samples = file["x"].astype("float32") / 255.0
    device = dynhp.export_tflite(model, out / "model.tflite", "int8", samples)
    text = table(history)
    (out / "table.md").write_text(text + "\n")
    plot(history, out / "report.png")
    print(text)
    print(
        f"{model.count_params():,} parameters, {format_size(device.flash_bytes)} of flash; "
        f"{(time.monotonic() - began) / 60:.1f} minutes"
    )
    print(f"Wrote model.keras, model.tflite, history.json, table.md and report.png to {out}")


if __name__ == "__main__":
    app.run(main)
