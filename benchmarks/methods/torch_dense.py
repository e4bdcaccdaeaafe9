"""The full network in PyTorch: what its pruners' time and memory are a share of."""

from __future__ import annotations

import torch_pruning

from benchmarks.job import Job
from benchmarks.torch_training import TorchTrainer
from examples.datasets import Data


def train(job: Job, data: Data) -> dict:
    """Train the full network."""
    trainer = TorchTrainer(job, data)
    trainer.fit(job.epochs)
    macs, _ = torch_pruning.utils.count_ops_and_params(trainer.model, trainer.example)
    return trainer.result(macs)
