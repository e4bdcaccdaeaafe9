"""Trials per hour of a LeNet-5 search, with and without a shared warm-up: is it faster, and equal?

    python -m benchmarks.tuner_warmup

The same grid of settings is trained both ways, with the same seeds, each from an empty folder. On a
machine that does other work besides, only hours of the processor's time tell anything.
Writes benchmarks/results/tuner_warmup.md and .json.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import keras_tuner
import numpy as np
import tensorflow as tf

from keras_dynhp.tuner import PruningHyperModel

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from datasets import fashion_mnist
from networks import lenet_5

RESULTS = Path(__file__).parent / "results"
SAMPLES, EPOCHS = 6000, 12
BATCH_SIZE = 64
SEARCH = {
    "compression": [5, 10, 20],
    "start": [0.5, 0.6],
    "end": 0.8,
    "batch_size": "fixed",
}


def build_model(hp):
    keras.utils.set_random_seed(0)
    model = lenet_5()
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def search(share: bool) -> dict:
    data = fashion_mnist().validation()
    with tempfile.TemporaryDirectory() as folder:
        tuner = keras_tuner.GridSearch(
            PruningHyperModel(build_model, SEARCH, share_warm_up=share),
            objective=keras_tuner.Objective("val_accuracy", "max"),
            directory=folder,
        )
        began, began_cpu = time.perf_counter(), time.process_time()
        tuner.search(
            data.x_train[:SAMPLES],
            data.y_train[:SAMPLES],
            validation_data=(data.x_test, data.y_test),
            epochs=EPOCHS,
            batch_size=BATCH_SIZE,
            verbose=0,
        )
        seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
        trials = {
            str([t.hyperparameters.get(f"dynhp/{name}") for name in ("compression", "start")]): {
                name: t.metrics.get_last_value(name) for name in ("val_accuracy", "params")
            }
            for t in tuner.oracle.trials.values()
            if t.status == "COMPLETED"
        }
    return {"seconds": seconds, "cpu_seconds": cpu, "trials": trials}


def main() -> None:
    found = {"shared": search(True), "each its own": search(False)}
    shared, own = found.values()
    lines = [
        "# Shared warm-up of a search",
        "",
        f"LeNet-5 on {SAMPLES:,} samples of Fashion-MNIST, {EPOCHS} epochs a trial, {SEARCH}.",
        f"Keras {keras.__version__}, TensorFlow {tf.__version__}, {platform.machine()}, "
        f"{os.cpu_count()} cores.",
        "",
        "| warm-up | trials | seconds | CPU seconds | trials per CPU hour "
        "| val. accuracy, mean | best |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, run in found.items():
        accuracy = np.array([trial["val_accuracy"] for trial in run["trials"].values()])
        lines.append(
            f"| {name} | {len(accuracy)} | {run['seconds']:.0f} | {run['cpu_seconds']:.0f} | "
            f"{3600 * len(accuracy) / run['cpu_seconds']:.0f} | "
            f"{100 * accuracy.mean():.2f}% | {100 * accuracy.max():.2f}% |"
        )
    pairs = [(shared["trials"][settings], trial) for settings, trial in own["trials"].items()]
    apart = [abs(one["val_accuracy"] - other["val_accuracy"]) for one, other in pairs]
    lines += [
        "",
        f"{own['cpu_seconds'] / shared['cpu_seconds']:.2f} times the trials for the same time of "
        f"the processor; {own['seconds'] / shared['seconds']:.2f} times by the clock (load "
        f"average {os.getloadavg()[0]:.1f}). Accuracies of the same settings are at most "
        f"{100 * max(apart):.2f} points apart, {sum(one == other for one, other in pairs)} of "
        f"{len(pairs)} trials are the same to the last digit.",
    ]
    text = "\n".join(lines)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "tuner_warmup.md").write_text(text + "\n")
    (RESULTS / "tuner_warmup.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
