"""Dynamic Hard Pruning with its defaults; only the batch rule differs between rows of a table."""

from __future__ import annotations

import json

import keras_dynhp as dynhp
from benchmarks.job import Job
from benchmarks.training import Trainer, full_network, result
from examples.datasets import Data
from keras_dynhp.memory import Budget
from keras_dynhp.memory.estimate import StepMemory


def train(job: Job, data: Data) -> dict:
    """Train the full network, which becomes small."""
    trainer = Trainer(job, data)
    model = full_network(job, data)
    if job.cap_mb is not None:
        budget = job.cap_mb * 2**20
    else:  # what this needs at first: batches may grow into what pruning frees of that
        need = StepMemory(model, model.optimizer, pruning=True).at(job.batch_size)
        budget = Budget("1GB").predict(need)
    hp = dynhp.DynHP(
        budget=budget,
        target=dynhp.Target(**job.workload.limits(dynhp.count_macs(model))),
        prune_inputs=job.workload.prune_inputs,
        **job.options,
    )
    trainer.fit(model, job.epochs, [hp])
    path = job.architecture(job.method)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"class": type(model).__name__, "config": model.get_config()}))
    widths = json.dumps(hp.report.epochs[-1]["widths"])
    return result(model, trainer, budget=budget, widths=widths)
