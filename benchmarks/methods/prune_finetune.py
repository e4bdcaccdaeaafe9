"""Train the full network for half of the epochs, prune it once, fine-tune for the other half."""

from __future__ import annotations

import keras_dynhp as dynhp
from benchmarks.job import Job
from benchmarks.training import Trainer, compiled, full_network, result
from examples.datasets import Data, batches
from keras_dynhp.rebuild.release import release_variable

SCORING_BATCHES = 50


def train(job: Job, data: Data) -> dict:
    """Train, prune, fine-tune."""
    trainer = Trainer(job, data)
    model = full_network(job, data)
    half = job.epochs // 2
    trainer.fit(model, half)
    small = dynhp.prune(
        model,
        dynhp.Target(**job.workload.limits(dynhp.count_macs(model))),
        criterion="taylor",
        data=batches(data.x_train, data.y_train, job.batch_size, job.seed).take(SCORING_BATCHES),
    )
    # Its memory while fine-tuning is that of the small network alone, as in a process of its own.
    for variable in [*model.variables, *model.optimizer.variables]:
        release_variable(variable)
    trainer.fit(compiled(small), job.epochs - half)
    return result(small, trainer)
