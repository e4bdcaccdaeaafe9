"""What each part of the method brings: `python -m benchmarks.ablation`.

    python -m benchmarks.ablation --rows=fashion_lenet300_10x --variants=defaults,criterion_random

Every run is judged on a validation split of the training data; the test set stays unseen. Runs
what isn't in results/ablation.csv yet, and writes ablation.md from it.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
from absl import app, flags, logging

from benchmarks import alternatives
from benchmarks.job import Job
from benchmarks.store import ROOT
from benchmarks.tables import by_variant, made_by, written
from benchmarks.training import accuracy, compiled
from benchmarks.workloads import WORKLOADS
from examples.datasets import DATASETS
from examples.networks import NETWORKS
from keras_dynhp import DynHP, PruneAndRebuild, Target, count_macs, schedules
from keras_dynhp.batching.rules import CABS
from keras_dynhp.callbacks import prune_and_rebuild
from keras_dynhp.pruning import engine, fading, gates, pace, selection

FLAGS = flags.FLAGS


@dataclass(frozen=True)
class Variant:
    """The method with one part exchanged.

    Args:
        title: for the table.
        arguments: of the callback; with a `batch_size` among them it is `DynHP`.
        parts: what replaces which name of which module while it runs.
        dropout: of hidden neurons, which the networks of the comparison's rows do without.
    """

    title: str
    arguments: dict = field(default_factory=dict)
    parts: tuple[tuple[object, str, object], ...] = ()
    dropout: float = 0.0


def _cost_power(power: float) -> Callable:
    plain = selection._cost
    return lambda *arguments: plain(*arguments) ** power


def _cabs(learning_rate: str) -> dict:
    """A rule of its own for each run: it remembers."""
    return keras.saving.serialize_keras_object(CABS(learning_rate))


VARIANTS = {
    "defaults": Variant("as it is"),
    "trial_none": Variant(
        "no trial: what is due goes at once",
        parts=((prune_and_rebuild, "Engine", alternatives.EngineWithoutTrials),),
    ),
    "trial_masks": Variant("masks that are zero at once", parts=((fading, "LEFT", 0.0),)),
    "trial_feedback": Variant(
        "masks with feedback",
        parts=(
            (engine, "Fading", alternatives.FeedbackMasks),
            (engine, "GateMeter", alternatives.LiftedGates),
        ),
    ),
    "rates_kept": Variant("learning rates stay as they are", parts=((pace, "POWER", 0.0),)),
    "rates_full": Variant(
        "learning rates grow with what a variable lost", parts=((pace, "POWER", 1.0),)
    ),
    "criterion_magnitude": Variant("magnitude", {"criterion": "magnitude"}),
    "criterion_scale": Variant("scale of batch normalization", {"criterion": alternatives.Scale()}),
    "criterion_random": Variant("random", {"criterion": "random"}),
    "momentum_long": Variant(
        "Taylor momentum 0.999",
        parts=((engine, "GateMeter", functools.partial(gates.GateMeter, momentum=0.999)),),
    ),
    "cost_root": Variant(
        "score over root of cost", parts=((selection, "_cost", _cost_power(0.5)),)
    ),
    "cost_none": Variant(
        "score, whatever it costs", parts=((selection, "_cost", _cost_power(0.0)),)
    ),
    "schedule_linear": Variant("linear, 0.1 to 0.5", {"schedule": "linear"}),
    "schedule_geometric": Variant("geometric, 0.1 to 0.5", {"schedule": "geometric"}),
    "schedule_early": Variant("cubic, 0.1 to 0.3", {"schedule": schedules.Cubic(0.1, 0.3)}),
    "schedule_late": Variant("cubic, 0.1 to 0.7", {"schedule": schedules.Cubic(0.1, 0.7)}),
    "batch": Variant("batches grow by CABS", {"batch_size": "cabs"}),
    "batch_sqrt": Variant(
        "batches grow by CABS, the learning rate with their root", {"batch_size": _cabs("sqrt")}
    ),
    "batch_linear": Variant(
        "batches grow by CABS, the learning rate in proportion", {"batch_size": _cabs("linear")}
    ),
    "every_2": Variant("every second epoch", {"every": 2}),
    "dropout": Variant("with 20% dropout, weaker as the network shrinks", dropout=0.2),
    "dropout_kept": Variant(
        "with 20% dropout, which stays as it is",
        parts=((engine, "weaken_dropout", lambda groups, full: lambda: None),),
        dropout=0.2,
    ),
}
COLUMNS = ("row", "variant", "seed", "epochs", "accuracy", "params", "widths", "seconds")
KEY = COLUMNS[:4]


def run(row: str, variant: str, seed: int, epochs: int) -> dict:
    """One training run; how accurate it is on what was held out of the training data."""
    keras.backend.clear_session()
    job = Job(row, variant, seed, epochs, "validation")
    data, workload = DATASETS[job.workload.dataset]().validation(), job.workload
    keras.utils.set_random_seed(seed)
    make = NETWORKS[workload.network]
    dropout = VARIANTS[variant].dropout
    model = compiled(with_dropout(make(data.input_shape, data.classes), dropout))
    steps = -(-len(data.x_train) // workload.batch_size)
    model.optimizer.learning_rate = keras.optimizers.schedules.CosineDecay(2e-3, epochs * steps)
    target = Target(**workload.limits(count_macs(model)))
    began = time.perf_counter()
    with replaced(VARIANTS[variant].parts):
        arguments = {"prune_inputs": workload.prune_inputs, **VARIANTS[variant].arguments}
        callback = DynHP if "batch_size" in arguments else PruneAndRebuild
        hp = callback(target=target, **arguments)
        model.fit(
            data.x_train,
            data.y_train,
            batch_size=workload.batch_size,
            epochs=epochs,
            verbose=0,
            callbacks=[hp],
        )
    return {
        **dict(zip(KEY, (row, variant, seed, epochs))),
        "accuracy": round(accuracy(model, data), 2),
        "params": model.count_params(),
        "widths": json.dumps(hp.report.epochs[-1]["widths"]),
        "seconds": round(time.perf_counter() - began, 1),
    }


def with_dropout(network: keras.Sequential, rate: float) -> keras.Sequential:
    """The network with dropout behind its hidden Dense layers."""
    if not rate:
        return network
    if not isinstance(network, keras.Sequential):
        raise ValueError(
            f"The variants with dropout are for Sequential networks. Received: {network.name!r}."
        )
    layers = []
    for layer in network.layers:
        layers.append(layer)
        if isinstance(layer, keras.layers.Dense) and layer is not network.layers[-1]:
            layers.append(keras.layers.Dropout(rate))
    return keras.Sequential([keras.Input(network.input_shape[1:]), *layers])


@contextlib.contextmanager
def replaced(parts):
    """Other values for names of modules, for a while."""
    before = [(module, name, getattr(module, name)) for module, name, _ in parts]
    try:
        for module, name, value in parts:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def table(records: list[dict]) -> str:
    """Markdown: a line for each variant, a column for each row, mean and spread over seeds."""

    def cell(runs: list[dict]) -> str:
        found = np.array([float(r["accuracy"]) for r in runs])
        return f"{written(found, '{:.2f}')} ({len(found)})"

    titles = {name: variant.title for name, variant in VARIANTS.items()}
    return "Validation accuracy in percent: mean ± standard deviation (seeds).\n\n" + by_variant(
        records, list(WORKLOADS), titles, cell
    )


def main(argv):
    """Run what is missing, then write."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    logging.set_verbosity(logging.INFO)
    path = Path(FLAGS.results) / "ablation.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    records = list(csv.DictReader(path.open())) if path.exists() else []
    done = {tuple(r[name] for name in KEY) for r in records}
    for seed in range(FLAGS.seeds):
        for row in FLAGS.rows:
            for variant in FLAGS.variants:
                epochs = FLAGS.epochs or WORKLOADS[row].epochs
                if (row, variant, str(seed), str(epochs)) in done:
                    continue
                record = run(row, variant, seed, epochs)
                logging.info("%s", record)
                records.append(record)
                with path.open("w", newline="") as file:
                    writer = csv.DictWriter(file, COLUMNS)
                    writer.writeheader()
                    writer.writerows(records)
    shown = [r for r in records if int(r["epochs"]) == (FLAGS.epochs or WORKLOADS[r["row"]].epochs)]
    made = made_by("python -m benchmarks.ablation")
    (path.parent / "ablation.md").write_text(f"{made}\n{table(shown)}")


if __name__ == "__main__":
    flags.DEFINE_list("rows", ["fashion_lenet300_10x", "mnist_lenet300_inputs_10x"], "Which rows.")
    flags.DEFINE_list("variants", list(VARIANTS), "Which variants.")
    flags.DEFINE_integer("seeds", 2, "How many seeds.", lower_bound=1)
    flags.DEFINE_integer("epochs", None, "Epochs, if not the row's own.", lower_bound=1)
    flags.DEFINE_string("results", str(ROOT / "benchmarks" / "results"), "The folder for results.")
    app.run(main)
