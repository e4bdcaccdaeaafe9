"""One training run, in a process of its own: `python -m benchmarks.job JOB.json RESULT.json`."""

from __future__ import annotations

import importlib
import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.methods import METHODS
from benchmarks.workloads import WORKLOADS, Workload


@dataclass(frozen=True)
class Job:
    """What is run.

    Args:
        row: a name in `WORKLOADS`.
        method: a name in `METHODS`.
        seed: of weights and of the order of the data.
        epochs: of training; prune-and-tune methods divide them.
        split: "test": all training data, judged on the test set; "validation": a tenth of the
            training data is held out and judged on, and the test set stays unseen.
        batch_size: to begin with.
        cap_mb: what TensorFlow's allocator gives at most; also the budget of methods that know
            budgets, which otherwise is what the full network needs.
        folder: where the architectures that runs end with are kept.
        reference: the results this one needs to know, by method (`Method.after`).
    """

    row: str
    method: str
    seed: int
    epochs: int
    split: str = "test"
    batch_size: int = 128
    cap_mb: int | None = None
    folder: str = ""
    reference: dict = field(default_factory=dict)

    @property
    def workload(self) -> Workload:
        """The row."""
        return WORKLOADS[self.row]

    @property
    def options(self) -> dict:
        """What distinguishes the method from others of its module."""
        return METHODS[self.method].options

    def architecture(self, method: str) -> Path:
        """Where the architecture is kept that a method's run of this row and seed ended with."""
        name = f"{self.row}-{method}-{self.seed}-{self.epochs}-{self.split}.json"
        return Path(self.folder) / "architectures" / name


def learning_rate(epoch: int, epochs: int) -> float:
    """Cosine decay from 2e-3 to nearly 0, by epochs: a batch that changes doesn't stretch it."""
    return 2e-3 * 0.5 * (1 + math.cos(math.pi * (epoch + 0.5) / epochs))


def run(job: Job) -> dict:
    """Train and measure."""
    method = importlib.import_module(f"benchmarks.methods.{METHODS[job.method].module}")
    from examples.datasets import DATASETS

    data = DATASETS[job.workload.dataset]()
    if job.split == "validation":
        data = data.validation()
    if job.cap_mb is None:
        return method.train(job, data)
    import tensorflow as tf

    try:
        return method.train(job, data)
    except tf.errors.ResourceExhaustedError as error:
        return {"error": type(error).__name__}


def main(job_path: str, result_path: str) -> None:
    """Run the job in a file and write its result to another."""
    result = run(Job(**json.loads(Path(job_path).read_text())))
    Path(result_path).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
