"""Search how far a LeNet-5 can be pruned on Fashion-MNIST, and export the network to take.

    python examples/tune_pruning_rate.py --out=runs/tune
    python examples/tune_pruning_rate.py --dataset=digits --trials=4 --epochs=6 --out=runs/digits

Writes to `--out`: the search (it goes on where it was stopped), front.json, front.png and the
chosen model.tflite (int8). The default settings of DynHP are trained at the size of the chosen
network, for comparison. Runs on several machines with the variables of Keras Tuner's chief and
workers; see docs/guides/tune.md.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import keras_tuner
import numpy as np
from absl import app, flags
from datasets import DATASETS, Data
from networks import NETWORKS

import keras_dynhp as dynhp
from keras_dynhp.sizes import format_size, parse_size
from keras_dynhp.tuner import ParetoFront, PruningHyperModel

BATCH_SIZE = 64
LEARNING_RATE = 1e-3

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "dataset", "fashion_mnist", ["digits", "mnist", "fashion_mnist"], "What to learn."
)
flags.DEFINE_enum("network", "lenet_5", ["lenet_300_100", "lenet_5"], "The full network.")
flags.DEFINE_integer("samples", 16_000, "Training samples of the search.", lower_bound=500)
flags.DEFINE_integer("trials", 10, "Trials of the search.", lower_bound=1)
flags.DEFINE_integer("epochs", 10, "Epochs of each trial.", lower_bound=2)
flags.DEFINE_string("flash", "48KB", "The most bytes of the int8 file of every network.")
flags.DEFINE_integer("seed", 0, "Seeds weights and the search.")
flags.DEFINE_string("out", "runs/tune_pruning_rate", "The folder for what comes out.")


def main(argv):
    """Search, choose, compare, export."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    out = Path(FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    data = DATASETS[FLAGS.dataset]()
    held_out = data.validation()

    tuner = make_tuner(data, out)
    train = held_out.x_train[: FLAGS.samples], held_out.y_train[: FLAGS.samples]
    validation = held_out.x_test, held_out.y_test
    tuner.search(*train, validation_data=validation, **fit_arguments(), verbose=2)
    if os.environ.get("KERASTUNER_ORACLE_IP") and os.environ["KERASTUNER_TUNER_ID"] != "chief":
        return  # a worker: the chief has all results

    front = ParetoFront(tuner, costs=("flash", "macs"))
    print(f"\nNetworks that no other beats:\n{front}\n")
    front.plot(out / "front.png")
    chosen = choose(front)
    model = front.load(chosen)
    default = train_default(data, train, validation, model.count_params())
    report = dynhp.export_tflite(model, out / "model.tflite", "int8", data.x_train[:500])
    print(report)
    results = compare(held_out, data, model, default)
    results["chosen"] = {"trial": chosen.trial, **chosen.costs, **chosen.settings}
    (out / "front.json").write_text(json.dumps(results, indent=2, default=float))
    print(f"Wrote front.json, front.png and model.tflite to {out}")


def choose(front: ParetoFront):
    """The network to take under the limit, and, to be printed, under lower ones."""
    limit = parse_size(FLAGS.flash)
    for lower in (limit // 4, limit // 2, limit):
        try:
            print(f"Under {format_size(lower)}, take trial {front.best(flash=lower).trial}")
        except ValueError as error:
            print(error)
    return front.best(flash=limit)


def make_tuner(data: Data, out: Path):
    """Bayesian optimization of how much, when, and by which schedule to prune."""
    hypermodel = PruningHyperModel(
        lambda hp: build_model(data),
        search={
            "compression": (5, 40),
            "start": (0.2, 0.4),
            "end": (0.5, 0.8),
            "schedule": ["cubic", "geometric"],
        },
        limits=dynhp.Target(flash=FLAGS.flash),
        measure=("flash", "ram"),
    )
    return keras_tuner.BayesianOptimization(
        hypermodel,
        objective=keras_tuner.Objective("val_accuracy", "max"),
        max_trials=FLAGS.trials,
        num_initial_points=max(2, FLAGS.trials // 2),
        seed=FLAGS.seed,
        directory=out,
        project_name="search",
    )


def build_model(data: Data) -> keras.Model:
    """The full network, compiled; the same weights for every trial."""
    keras.utils.set_random_seed(FLAGS.seed)
    model = NETWORKS[FLAGS.network](data.input_shape, data.classes)
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def train_default(data: Data, train, validation, params: int) -> keras.Model:
    """What DynHP makes with its defaults, at the size of the chosen network."""
    print(f"Training with the default settings, to at most {params:,} parameters")
    model = build_model(data)
    hp = dynhp.DynHP(target=dynhp.Target(params=params))
    model.fit(*train, validation_data=validation, **fit_arguments(), callbacks=[hp], verbose=2)
    return model


def fit_arguments() -> dict:
    """What all trainings have in common."""
    return {"epochs": FLAGS.epochs, "batch_size": BATCH_SIZE}


def compare(held_out: Data, data: Data, model: keras.Model, default: keras.Model) -> dict:
    """Say whether the search has earned anything, where it has looked and where it has not."""
    results = {}
    for name, network in (("searched", model), ("default", default)):
        found = {"params": network.count_params()}
        for part, of in (("validation", held_out), ("test", data)):
            guesses = network.predict(of.x_test, verbose=0).argmax(-1)
            found[part] = float(np.mean(guesses == of.y_test))
        results[name] = found
        print(
            f"{name:<9} {found['params']:>8,} parameters, "
            f"validation {100 * found['validation']:.2f}%, test {100 * found['test']:.2f}%"
        )
    for part in ("validation", "test"):
        gain = 100 * (results["searched"][part] - results["default"][part])
        verdict = "beats" if gain > 0 else "does not beat"
        print(f"On {part} data the search {verdict} the default settings: {gain:+.2f} points.")
    return results


if __name__ == "__main__":
    app.run(main)
