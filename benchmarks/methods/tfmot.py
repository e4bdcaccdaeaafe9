"""TensorFlow Model Optimization's `prune_low_magnitude`: zeros in the same shapes, Keras 2 only."""

from __future__ import annotations

import sys

import tensorflow as tf
import tf_keras

# Networks and training are written in what Keras 2 and 3 have in common, so here they are Keras 2.
sys.modules["keras"] = tf_keras

import tensorflow_model_optimization as tfmot  # noqa: E402

from benchmarks.job import Job  # noqa: E402
from benchmarks.training import Trainer, accuracy, compiled, full_network, samples  # noqa: E402
from examples.datasets import Data  # noqa: E402

# Shares of the training: as its guide advises, some before, and enough after to recover.
BEGIN, END = 0.2, 0.6


def train(job: Job, data: Data) -> dict:
    """Train while weights become zero, to as many non-zero ones as DynHP ends with."""
    trainer = Trainer(job, data)
    model = full_network(job, data)
    steps = job.epochs * -(-len(data.x_train) // job.batch_size)
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        initial_sparsity=0.0,
        final_sparsity=_sparsity(model, job.reference["dynhp_fixed"]["params"]),
        begin_step=int(BEGIN * steps),
        end_step=int(END * steps),
        frequency=max(1, min(100, steps // 20)),
    )
    pruned = tfmot.sparsity.keras.prune_low_magnitude(model, pruning_schedule=schedule)
    trainer.fit(compiled(pruned), job.epochs, [tfmot.sparsity.keras.UpdatePruningStep()])
    final = tfmot.sparsity.keras.strip_pruning(pruned)
    return {
        "params": final.count_params(),
        "nonzero": sum(int((v.numpy() != 0).sum()) for v in final.weights),
        "macs": job.reference["dense"]["macs"],
        "int8_bytes": len(_int8_file(final, data, job.seed)),
        "accuracy": accuracy(final, data),
        **trainer.figures(),
    }


def _sparsity(model, nonzero: int) -> float:
    """The share of zeros in what TFMOT prunes that leaves so many non-zero weights in all."""
    kernels = sum(
        int(tf.size(layer.kernel))
        for layer in model.layers
        if isinstance(layer, (tf_keras.layers.Dense, tf_keras.layers.Conv2D))
        and not isinstance(layer, tf_keras.layers.DepthwiseConv2D)
    )
    return min(0.999, (model.count_params() - nonzero) / kernels)


def _int8_file(model, data: Data, seed: int) -> bytes:
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([x[None]] for x in samples(data, seed))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()
