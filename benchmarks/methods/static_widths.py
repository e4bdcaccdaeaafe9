"""The network that DynHP ended with, widths and inputs, trained from the start."""

from __future__ import annotations

import json

import keras

from benchmarks.job import Job
from benchmarks.methods import METHODS
from benchmarks.training import Trainer, compiled, result
from examples.datasets import Data


def train(job: Job, data: Data) -> dict:
    """Train the small network; where DynHP dropped inputs, it reads the same ones."""
    trainer = Trainer(job, data)
    saved = json.loads(job.architecture(METHODS[job.method].after[0]).read_text())
    keras.utils.set_random_seed(job.seed)
    kind = keras.Sequential if saved["class"] == "Sequential" else keras.Model
    model = compiled(kind.from_config(saved["config"]))
    trainer.fit(model, job.epochs)
    return result(model, trainer)
