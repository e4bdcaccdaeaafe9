"""The full network, trained as it is."""

from __future__ import annotations

from benchmarks.job import Job
from benchmarks.training import Trainer, full_network, result
from examples.datasets import Data


def train(job: Job, data: Data) -> dict:
    """Train the full network."""
    trainer = Trainer(job, data)
    model = full_network(job, data)
    trainer.fit(model, job.epochs)
    return result(model, trainer)
