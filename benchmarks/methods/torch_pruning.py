"""Torch-Pruning: dense, then pruned in steps with an importance of its own, then tuned.

Of the epochs two fifths train the full network, one fifth prunes it in ten steps with training
between them, two fifths tune. It can't drop input features.
"""

from __future__ import annotations

import time

import torch
import torch_pruning
from torch import nn

from benchmarks.job import Job
from benchmarks.torch_training import TorchTrainer
from examples.datasets import Data

STEPS = 10
SCORING_BATCHES = 10


def train(job: Job, data: Data) -> dict:
    """Train, prune in steps, tune."""
    trainer = TorchTrainer(job, data)
    pruning = _Pruning(job, trainer)
    trainer.fit(0.4 * job.epochs)
    for step in range(STEPS):
        began = time.perf_counter()
        pruning.to((step + 1) / STEPS)
        trainer.seconds += time.perf_counter() - began
        trainer.fit(0.2 * job.epochs / STEPS)
    trainer.fit(0.4 * job.epochs)
    return trainer.result(pruning.macs)


class _Pruning:
    """Prunes one channel after another until the network is as small as a step wants it."""

    def __init__(self, job: Job, trainer: TorchTrainer):
        self._trainer = trainer
        importance = getattr(torch_pruning.importance, job.options["importance"])()
        self._needs_gradients = "Taylor" in job.options["importance"]
        model = trainer.model
        head = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
        self._pruner = torch_pruning.pruner.BasePruner(
            model,
            trainer.example,
            importance=importance,
            global_pruning=True,
            pruning_ratio=1.0,
            iterative_steps=sum(m.out_channels for m in model.modules() if hasattr(m, "groups"))
            + sum(m.out_features for m in model.modules() if isinstance(m, nn.Linear)),
            ignored_layers=[head],
        )
        self._of_params = job.workload.compression is not None
        factor = job.workload.compression or job.workload.fewer_macs
        self._full = self._size()
        self._goal = self._full / factor

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one sample."""
        return torch_pruning.utils.count_ops_and_params(self._trainer.model, self._trainer.example)[
            0
        ]

    def _size(self) -> float:
        return self._trainer.params if self._of_params else self.macs

    def to(self, fraction: float) -> None:
        """Prune to a fraction of the way, which is geometric, between full and goal."""
        model, wanted = self._trainer.model, self._full * (self._goal / self._full) ** fraction
        if self._needs_gradients:
            self._score()
        while self._size() > wanted:
            self._pruner.step()
            if self._pruner.current_step >= self._pruner.iterative_steps:
                raise RuntimeError(f"Torch-Pruning stopped at {self._size():,.0f}.")
        model.zero_grad()
        self._trainer.optimizer = torch.optim.Adam(model.parameters())

    def _score(self) -> None:
        model = self._trainer.model
        model.train()
        model.zero_grad()
        for x, y in self._trainer.batches(SCORING_BATCHES):
            nn.functional.cross_entropy(model(x), y).backward()
