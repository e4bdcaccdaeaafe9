"""What the core must reach, measured: `python -m benchmarks.core`.

    python -m benchmarks.core --rows=memory,time --seeds=3

Each row of the table runs what it needs and isn't there yet, and writes core.md to `--results`.
Runs are shared with `benchmarks.compare`. Nothing else should run meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from absl import app, flags, logging

from benchmarks.job import Job
from benchmarks.store import ROOT, Store
from benchmarks.tables import MB, made_by, markdown, values, written
from benchmarks.workloads import WORKLOADS

FASHION, MNIST, LENET_5 = "fashion_lenet300_10x", "mnist_lenet300_inputs_10x", "mnist_lenet5_20x"
CAP_MB, CAP_EPOCHS = 16, 10
# In the last epoch most of what is left are batches that wait in the input pipeline.
MEMORY_BATCHES = (32, 128)


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Args:
        work: what is done.
        must: what it must reach.
        measure: runs what is needed; gives what was reached, in words, and whether it is enough.
    """

    work: str
    must: str
    measure: Callable[[Runs], tuple[str, bool]]


class Runs:
    """The runs of the table: made when asked for, methods taking turns."""

    def __init__(self, store: Store, seeds: int):
        self._store = store
        self._seeds = seeds

    def of(
        self, row: str, *methods: str, batch_size: int | None = None
    ) -> Callable[[str, str], np.ndarray]:
        """Figures by `(method, name)`, each an array over the seeds."""
        workload = WORKLOADS[row]
        batch_size = batch_size or workload.batch_size
        for seed in range(self._seeds):
            for method in methods:
                self.one(Job(row, method, seed, workload.epochs, "test", batch_size))
        records = [
            r
            for r in self._store.records
            if (r["split"], r["epochs"], r["batch_size"], r["cap_mb"])
            == ("test", workload.epochs, batch_size, None)
            and r["seed"] < self._seeds
        ]
        return lambda method, name: values(records, row, method, name)

    def one(self, job: Job) -> dict:
        """A single run."""
        return self._store.get(job)


def _near_dense(row: str, points: float, above_static: float | None = None):
    def measure(runs: Runs) -> tuple[str, bool]:
        methods = ("dense", "dynhp") + (("static",) if above_static is not None else ())
        figures = runs.of(row, *methods)
        means = {method: figures(method, "accuracy").mean() for method in methods}
        text = ", ".join(f"{m} {written(figures(m, 'accuracy'), '{:.2f}')}" for m in methods)
        enough = means["dynhp"] >= means["dense"] - points
        if above_static is not None:
            enough = enough and means["dynhp"] >= means["static"] + above_static
        return text, bool(enough)

    return measure


def _memory(runs: Runs) -> tuple[str, bool]:
    said, enough = [], []
    for batch_size in MEMORY_BATCHES:
        figures = runs.of(FASHION, "dynhp_fixed", batch_size=batch_size)
        first, last = (figures("dynhp_fixed", f"{which}_memory") for which in ("first", "last"))
        less = 1 - last / first
        said.append(
            f"batch {batch_size}: {100 * less.mean():.0f}% less ({first.mean() / MB:.1f} MB, "
            f"{last.mean() / MB:.1f} MB)"
        )
        enough.append(less.min() >= 0.8)
    return "; ".join(said), bool(all(enough))


def _cap(runs: Runs) -> tuple[str, bool]:
    job = {"row": FASHION, "seed": 0, "cap_mb": CAP_MB}
    ours = runs.one(Job(method="dynhp_memory", epochs=CAP_EPOCHS, **job))
    if ours.get("error"):
        return f"DynHP: {ours['error']}", False
    batch = ours["last_batch_size"]
    plain = runs.one(Job(method="dense", epochs=1, batch_size=batch, **job))
    text = (
        f"DynHP trained to {ours['accuracy']:.2f}%, peak {ours['peak_memory'] / MB:.1f} MB, last "
        f"batch {batch}; plain fit at that batch: {plain['error'] or 'trained'}"
    )
    return text, bool(plain.get("error")) and ours["peak_memory"] <= CAP_MB * MB


def _time(runs: Runs) -> tuple[str, bool]:
    figures = runs.of(FASHION, "dense", "dynhp")
    ratios = figures("dynhp", "seconds") / figures("dense", "seconds")
    text = f"{np.median(ratios):.2f} (median of {len(ratios)} pairs: "
    return text + ", ".join(f"{r:.2f}" for r in ratios) + ")", bool(np.median(ratios) <= 0.8)


ROWS = {
    "fashion": Row(
        "Fashion-MNIST, LeNet-300-100, 20 epochs, 10x fewer parameters: test accuracy, %",
        "within 1.0 point of dense and 1.0 point above static",
        _near_dense(FASHION, 1.0, above_static=1.0),
    ),
    "mnist": Row(
        "MNIST, the same with `prune_inputs=True`",
        "within 0.4 points of dense",
        _near_dense(MNIST, 0.4),
    ),
    "lenet5": Row("MNIST, LeNet-5, 20x", "within 0.4 points of dense", _near_dense(LENET_5, 0.4)),
    "memory": Row(
        "allocator's peak, LeNet-300-100 with Adam, fixed batch",
        "last epoch at least 80% under the first",
        _memory,
    ),
    "cap": Row(
        f"LeNet-300-100 under a hard allocator cap of {CAP_MB} MB, streamed data",
        "DynHP trains to the end; plain fit at its last batch runs out of memory",
        _cap,
    ),
    "time": Row("whole run against dense, Fashion-MNIST, LeNet-300-100", "at most 0.8", _time),
}

FLAGS = flags.FLAGS
flags.DEFINE_list("rows", list(ROWS), "Rows of the table to measure.")
flags.DEFINE_integer("seeds", 3, "How many seeds.", lower_bound=1)
flags.DEFINE_string("results", str(ROOT / "benchmarks" / "results"), "The folder for results.")


def main(argv):
    """Measure, then write."""
    unknown = [name for name in FLAGS.rows if name not in ROWS]
    if len(argv) > 1 or unknown:
        raise app.UsageError(f"Unknown: {argv[1:] + unknown}. Known rows: {', '.join(ROWS)}")
    logging.set_verbosity(logging.INFO)
    results = Path(FLAGS.results)
    runs = Runs(Store(results / "runs.csv"), FLAGS.seeds)
    lines, missed = [], []
    for name in FLAGS.rows:
        row = ROWS[name]
        reached, enough = row.measure(runs)
        lines.append([row.work, row.must, reached, "yes" if enough else "**no**"])
        if not enough:
            missed.append(name)
    table = markdown(["work", "must reach", "reached", "holds"], lines)
    (results / "core.md").write_text(f"{made_by('python -m benchmarks.core')}\n{table}")
    print(table)
    if missed:
        raise SystemExit(f"Not reached: {', '.join(missed)}")


if __name__ == "__main__":
    app.run(main)
