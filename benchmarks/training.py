"""What all Keras methods share, so that they differ in nothing but the method.

`keras` here is what the process has under that name: the TFMOT method puts Keras 2 there.
"""

from __future__ import annotations

import time

import keras
import numpy as np
import tensorflow as tf

from benchmarks.job import Job, learning_rate
from examples.datasets import Data, batches
from examples.networks import NETWORKS


def compiled(model):
    """The model with the optimizer, loss and metric that every method trains with."""
    model.compile(
        keras.optimizers.Adam(),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def full_network(job: Job, data: Data):
    """The full network of the row, with the weights of the seed, compiled."""
    keras.utils.set_random_seed(job.seed)
    return compiled(NETWORKS[job.workload.network](data.input_shape, data.classes))


class Trainer:
    """Fits models and keeps the record of time and memory: allocator peaks, epoch by epoch.

    Make it before the model: what is in use then isn't the training's.
    """

    def __init__(self, job: Job, data: Data):
        self.job = job
        self.data = data
        self.seconds = 0.0
        self.peaks: list[int] = []
        self.highest = 0
        self.batch_sizes: list[int] = []
        self._pending = 0
        self._epochs_done = 0
        self._reset = tf.config.experimental.reset_memory_stats
        self._reset("CPU:0")
        # Methods that measure for themselves start the record afresh, too: nothing may be lost.
        tf.config.experimental.reset_memory_stats = lambda device: self._take()
        self._base = tf.config.experimental.get_memory_info("CPU:0")["current"]

    def fit(self, model, epochs: int, callbacks=()) -> dict:
        """Train for so many epochs of the job's, and return the history."""
        done = self._epochs_done
        rate = keras.callbacks.LearningRateScheduler(
            lambda epoch: learning_rate(done + epoch, self.job.epochs)
        )
        x, y = self.data.x_train, self.data.y_train
        began = time.perf_counter()
        history = model.fit(
            batches(x, y, self.job.batch_size, self.job.seed + done),
            epochs=epochs,
            verbose=0,
            shuffle=False,  # `batches` does
            callbacks=[rate, _Epochs(self), *callbacks],
        ).history
        self._begin_epoch()
        self.seconds += time.perf_counter() - began
        self._epochs_done += epochs
        self.batch_sizes += [int(n) for n in history.get("batch_size", [])]
        return history

    def figures(self) -> dict:
        """Time and memory of everything that was fitted."""
        sizes = self.batch_sizes or [self.job.batch_size]
        return {
            "seconds": self.seconds,
            "first_memory": self.peaks[0],
            "last_memory": self.peaks[-1],
            "mean_memory": float(np.mean(self.peaks)),
            "peak_memory": self.highest,
            "last_batch_size": sizes[-1],
        }

    def _take(self) -> None:
        self._pending = max(self._pending, self._peak())
        self._reset("CPU:0")

    def _peak(self) -> int:
        return tf.config.experimental.get_memory_info("CPU:0")["peak"] - self._base

    def _begin_epoch(self) -> None:
        self._take()
        self.highest = max(self.highest, self._pending)
        self._pending = 0

    def _end_epoch(self) -> None:
        self._take()
        self.peaks.append(self._pending)


class _Epochs(keras.callbacks.Callback):
    """Tells the trainer where epochs begin and end."""

    def __init__(self, trainer: Trainer):
        super().__init__()
        self._trainer = trainer

    def on_epoch_begin(self, epoch, logs=None):
        self._trainer._begin_epoch()

    def on_epoch_end(self, epoch, logs=None):
        self._trainer._end_epoch()


def result(model, trainer: Trainer, **more) -> dict:
    """The record of a run whose network is a Keras 3 model."""
    import tempfile

    import keras_dynhp as dynhp

    data = trainer.data
    with tempfile.TemporaryDirectory() as folder:
        device = dynhp.export_tflite(
            model, f"{folder}/model.tflite", "int8", samples(data, trainer.job.seed)
        )
    return {
        "params": model.count_params(),
        "nonzero": model.count_params(),
        "macs": device.macs,
        "int8_bytes": device.flash_bytes,
        "arena_bytes": device.ram_bytes,
        "accuracy": accuracy(model, data),
        **trainer.figures(),
        **more,
    }


def accuracy(model, data: Data) -> float:
    """Percent of the test samples that are classified rightly."""
    # In parts, so that it fits where the training did.
    parts = np.array_split(data.x_test, max(1, len(data.x_test) // 500))
    guesses = np.concatenate([model.predict_on_batch(part).argmax(-1) for part in parts])
    return 100 * float((guesses == data.y_test).mean())


def samples(data: Data, seed: int) -> np.ndarray:
    """Training samples that calibrate the quantization."""
    rows = np.random.default_rng(seed).choice(len(data.x_train), 300, replace=False)
    return data.x_train[rows]
