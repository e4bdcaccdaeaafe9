"""A network of the final size from the start: every hidden layer narrower by the same factor."""

from __future__ import annotations

import keras

import keras_dynhp as dynhp
from benchmarks.job import Job
from benchmarks.training import Trainer, compiled, result
from examples.datasets import Data
from examples.networks import NETWORKS

_STEPS = 12  # of halving: finer than a neuron of any network


def train(job: Job, data: Data) -> dict:
    """Train the small network."""
    trainer = Trainer(job, data)
    width = widest(job, data)
    keras.utils.set_random_seed(job.seed)
    model = compiled(NETWORKS[job.workload.network](data.input_shape, data.classes, width))
    trainer.fit(model, job.epochs)
    return result(model, trainer)


def widest(job: Job, data: Data) -> float:
    """The largest width whose network is as small as the row asks for."""
    workload, build = job.workload, NETWORKS[job.workload.network]
    by_params = workload.compression is not None
    factor = workload.compression if by_params else workload.fewer_macs

    def cost(width: float) -> float:
        model = build(data.input_shape, data.classes, width)
        return model.count_params() if by_params else dynhp.count_macs(model)

    limit, low, high = cost(1.0) / factor, 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) <= limit else (low, middle)
    return low
