"""One network for the device table: `python -m benchmarks.device_runs NETWORK VARIANT EPOCHS OUT`.

Trains and saves OUT (.keras). TFMOT needs the number of weights that DynHP ended with: it reads the
file of that name, with "dynhp" for "tfmot", beside its own.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import keras

from benchmarks.job import learning_rate
from examples.datasets import DATASETS, Data, batches
from examples.networks import NETWORKS


@dataclass(frozen=True)
class Subject:
    """A network of the table: what it learns, for how long, in batches of how many.

    `round_to` is DynHP's: kernels of convolutions take whole blocks of channels. `samples` are how
    many of the training data are used: all, or so many that ResNet-8 can be trained on two cores.
    """

    dataset: str
    epochs: int
    batch_size: int
    round_to: int = 1
    samples: int | None = None


SUBJECTS = {
    "lenet_300_100": Subject("mnist", 20, 128),
    "lenet_5": Subject("mnist", 6, 128),
    "resnet_8": Subject("fashion_mnist", 5, 64, round_to=8, samples=10_000),
    "ds_cnn": Subject("spoken_digit", 30, 32, round_to=8),
}
# Compression of each variant; TFMOT keeps as many weights as the DynHP variant it is named after.
VARIANTS = {"dense": None, "dynhp_4x": 4, "dynhp_10x": 10, "tfmot_4x": 4, "tfmot_10x": 10}
SEED = 0


def main(network: str, variant: str, epochs: str, out: str) -> None:
    """Train one variant of one network and save it."""
    subject = SUBJECTS[network]
    data = DATASETS[subject.dataset]()
    data = replace(
        data, x_train=data.x_train[: subject.samples], y_train=data.y_train[: subject.samples]
    )
    keras.utils.set_random_seed(SEED)
    model = NETWORKS[network](data.input_shape, data.classes)
    run = _Run(data, subject.batch_size, int(epochs), subject.round_to)
    if variant.startswith("tfmot"):
        beside = Path(out).with_name(Path(out).name.replace("tfmot", "dynhp"))
        kept = keras.saving.load_model(beside, compile=False).count_params()
        _train_sparse(model, run, kept)
    else:
        _train(model, run, VARIANTS[variant])
    # Whole or not at all: a table that goes on trusts what is there.
    half = Path(out).with_name(f".half-{Path(out).name}")
    model.save(half, include_optimizer=False)
    half.replace(out)


@dataclass(frozen=True)
class _Run:
    data: Data
    batch_size: int
    epochs: int
    round_to: int

    def batches(self):
        return batches(self.data.x_train, self.data.y_train, self.batch_size, SEED)

    def rate(self, module):
        return module.callbacks.LearningRateScheduler(lambda e: learning_rate(e, self.epochs))


def _train(model: keras.Model, run: _Run, compression: float | None) -> None:
    import keras_dynhp as dynhp

    model.compile(
        keras.optimizers.Adam(), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    callbacks = [run.rate(keras)]
    if compression:
        target = dynhp.Target(compression=compression)
        callbacks.append(dynhp.DynHP(target=target, round_to=run.round_to))
    model.fit(run.batches(), epochs=run.epochs, callbacks=callbacks, shuffle=False, verbose=0)


def _train_sparse(model: keras.Model, run: _Run, kept: int) -> None:
    """TFMOT's zeros in a tf_keras copy, carried back: the export is then the same for all."""
    import tensorflow_model_optimization as tfmot
    import tf_keras

    from keras_dynhp.export.legacy import in_tf_keras

    copy = in_tf_keras(model)
    kernels = sum(
        int(layer.kernel.shape.num_elements())
        for layer in copy.layers
        if type(layer).__name__ in ("Dense", "Conv2D")
    )
    steps = run.epochs * -(-len(run.data.x_train) // run.batch_size)
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        initial_sparsity=0.0,
        final_sparsity=min(0.999, (model.count_params() - kept) / kernels),
        begin_step=int(0.2 * steps),
        end_step=int(0.6 * steps),
        frequency=max(1, min(100, steps // 20)),
    )
    pruned = tfmot.sparsity.keras.prune_low_magnitude(copy, pruning_schedule=schedule)
    pruned.compile(
        tf_keras.optimizers.Adam(), tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    callbacks = [run.rate(tf_keras), tfmot.sparsity.keras.UpdatePruningStep()]
    pruned.fit(run.batches(), epochs=run.epochs, callbacks=callbacks, shuffle=False, verbose=0)
    final = tfmot.sparsity.keras.strip_pruning(pruned)
    for layer in model.layers:
        if layer.weights:
            layer.set_weights(final.get_layer(layer.name).get_weights())


if __name__ == "__main__":
    main(*sys.argv[1:])
