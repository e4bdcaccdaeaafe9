"""DynHP beside what a user would pick instead: `python -m benchmarks.compare`.

    python -m benchmarks.compare --rows=fashion_lenet300_10x --methods=dense,dynhp --seeds=3

Runs what isn't there yet, row by row and seed by seed with the methods taking turns, and writes
runs.csv, compare.md and a plot per row to `--results`. Nothing else should run meanwhile.
"""

from __future__ import annotations

from pathlib import Path

from absl import app, flags, logging

from benchmarks.job import Job
from benchmarks.methods import METHODS
from benchmarks.plots import plot_rows
from benchmarks.store import ROOT, Store
from benchmarks.tables import comparison, is_whole, made_by
from benchmarks.workloads import WORKLOADS

NOTE = """Means over the runs; seconds only of those that had the machine to themselves.
TFMOT prunes neither depthwise kernels nor batch normalization. In the network for keywords these
alone are more than what may be left, so there it has made all else zero and can only guess.
"""
OTHERS = ("tf-keras", "tensorflow-model-optimization", "torch", "torch-pruning")
FLAGS = flags.FLAGS
flags.DEFINE_list("rows", list(WORKLOADS), "What to compare on.")
flags.DEFINE_list("methods", list(METHODS), "What to compare.")
flags.DEFINE_integer("seeds", 3, "How many seeds.", lower_bound=1)
flags.DEFINE_integer("epochs", None, "Epochs, if not the row's own.", lower_bound=1)
flags.DEFINE_enum(
    "split",
    "test",
    ["test", "validation"],
    "What is judged on; choices are made on validation, a part of the training data.",
)
flags.DEFINE_string("results", str(ROOT / "benchmarks" / "results"), "The folder for results.")


def main(argv):
    """Run, then write."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    for flag, known in (("rows", WORKLOADS), ("methods", METHODS)):
        unknown = [name for name in FLAGS[flag].value if name not in known]
        if unknown:
            raise app.UsageError(f"Unknown --{flag}: {unknown}. Known: {', '.join(known)}")
    logging.set_verbosity(logging.INFO)
    results = Path(FLAGS.results)
    store = Store(results / "runs.csv")
    failed = []
    for seed in range(FLAGS.seeds):
        for row in FLAGS.rows:
            for method in FLAGS.methods:
                workload = WORKLOADS[row]
                epochs = FLAGS.epochs or workload.epochs
                job = Job(row, method, seed, epochs, FLAGS.split, workload.batch_size)
                try:
                    store.get(job)
                except (RuntimeError, FileNotFoundError) as error:
                    logging.error("%s", error)
                    failed.append(f"{row} {method} seed {seed}")
    shown = [r for r in store.records if is_whole(r, FLAGS.split, FLAGS.epochs)]
    made = made_by("python -m benchmarks.compare", *OTHERS)
    (results / "compare.md").write_text(f"{made}{NOTE}\n{comparison(shown)}")
    plot_rows(shown, results, made.strip())
    if failed:
        raise SystemExit(f"Failed: {', '.join(failed)}")


if __name__ == "__main__":
    app.run(main)
