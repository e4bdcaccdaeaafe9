"""Train an image classifier that becomes small while it trains, and export it for a device.

    python examples/train_image_classifier.py --out=runs/demo
    python examples/train_image_classifier.py --dataset=fashion_mnist --network=lenet_5 \
        --budget=64MB --flash=64KB --out=runs/fashion

Writes to `--out`: model.keras, model.tflite (int8), report.json and report.png. The full network
is trained alike afterwards, for comparison.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

# Lets TensorFlow's allocator tell how much memory training takes; it is read when TensorFlow loads.
os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from datasets import DATASETS, Data, batches
from networks import NETWORKS

import keras_dynhp as dynhp
from keras_dynhp.export import litert
from keras_dynhp.sizes import format_size

BATCH_SIZE = 64  # to begin with: DynHP may change it
LEARNING_RATE = 1e-3

FLAGS = flags.FLAGS
flags.DEFINE_enum("dataset", "digits", ["digits", "mnist", "fashion_mnist"], "What to learn.")
flags.DEFINE_enum(
    "network", "lenet_300_100", ["lenet_300_100", "lenet_5", "resnet_8"], "The full network."
)
flags.DEFINE_string("budget", None, "The most training memory, such as 4MB; no cap by default.")
flags.DEFINE_float("compression", None, "How many times fewer parameters; 10 if no limit is given.")
flags.DEFINE_integer("params", None, "The most parameters.")
flags.DEFINE_integer("macs", None, "The most multiply-accumulates of one inference.")
flags.DEFINE_string("flash", None, "The most bytes of the int8 file, such as 64KB.")
flags.DEFINE_string("ram", None, "The most bytes of the tensor arena, such as 16KB.")
flags.DEFINE_bool("prune_inputs", False, "Prune input pixels too.")
flags.DEFINE_integer("epochs", 20, "Epochs of training.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seeds weights and the order of the data.")
flags.DEFINE_string("out", "runs/image_classifier", "The folder for what comes out.")

LIMITS = ("compression", "params", "macs", "flash", "ram")
SETTINGS = ("dataset", "network", "budget", *LIMITS, "prune_inputs", "epochs", "seed")


def main(argv):
    """Train, prune, export, compare."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    limits = {name: FLAGS[name].value for name in LIMITS if FLAGS[name].value is not None}
    target = dynhp.Target(**limits or {"compression": 10})
    out = Path(FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    data = DATASETS[FLAGS.dataset]()

    hp = dynhp.DynHP(budget=FLAGS.budget, target=target, prune_inputs=FLAGS.prune_inputs)
    print(f"Training {FLAGS.network} on {FLAGS.dataset}, pruned on the way to {target}")
    small, pruned = train(data, [hp])
    print(hp.report)
    print(f"Training {FLAGS.network} unpruned, for comparison")
    full, dense = train(data, [])

    small.save(out / "model.keras")
    figures, hp.report.device = measure(small, data, out / "model.tflite")
    pruned |= figures
    dense |= measure(full, data, out / "full.tflite")[0]
    (out / "full.tflite").unlink()
    print_table(dense, pruned)
    report = {
        "flags": {name: FLAGS[name].value for name in SETTINGS},
        "before": dense,
        "after": pruned,
        "pruning": hp.report.to_dict(),
    }
    (out / "report.json").write_text(json.dumps(report, indent=2, default=float))
    plot(hp.report.epochs, out / "report.png")
    print(f"Wrote model.keras, model.tflite, report.json and report.png to {out}")


def train(data: Data, callbacks: list) -> tuple[keras.Model, dict]:
    """A network after `fit`, with the seconds and the bytes that took."""
    keras.utils.set_random_seed(FLAGS.seed)
    memory = PeakMemory()
    model = NETWORKS[FLAGS.network](data.input_shape, data.classes)
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    held_out = data.validation()
    began = time.perf_counter()
    model.fit(
        batches(held_out.x_train, held_out.y_train, BATCH_SIZE, FLAGS.seed),
        epochs=FLAGS.epochs,
        validation_data=(held_out.x_test, held_out.y_test),
        shuffle=False,  # `batches` does
        callbacks=[*callbacks, memory],
    )
    return model, {
        "peak_memory": max(memory.peaks),
        "last_memory": memory.peaks[-1],
        "seconds": time.perf_counter() - began,
    }


class PeakMemory(keras.callbacks.Callback):
    """The most bytes in use in each epoch, beyond what was in use before the model was made."""

    def __init__(self):
        super().__init__()
        self.peaks: list[int] = []
        self._device = "GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0"
        self._before = tf.config.experimental.get_memory_info(self._device)["current"]

    def on_epoch_begin(self, epoch, logs=None):
        """Start the allocator's record afresh."""
        tf.config.experimental.reset_memory_stats(self._device)

    def on_epoch_end(self, epoch, logs=None):
        """Read it."""
        peak = tf.config.experimental.get_memory_info(self._device)["peak"]
        self.peaks.append(peak - self._before)


def measure(model: keras.Model, data: Data, path: Path) -> tuple[dict, dynhp.DeviceReport]:
    """Size and accuracy of a trained network, and of its int8 file, which is written."""
    samples = np.random.default_rng(FLAGS.seed).choice(len(data.x_train), 500, replace=False)
    device = dynhp.export_tflite(model, path, "int8", data.x_train[samples])
    guesses = model.predict(data.x_test, verbose=0).argmax(-1)
    figures = {
        "params": model.count_params(),
        "macs": device.macs,
        "int8_bytes": device.flash_bytes,
        "arena_bytes": device.ram_bytes,
        "test_accuracy": float((guesses == data.y_test).mean()),
        "test_accuracy_int8": None,
    }
    if litert.installed():
        outputs = litert.run(litert.make_interpreter(path.read_bytes()), [data.x_test])
        guesses = outputs[0].argmax(-1)
        figures["test_accuracy_int8"] = float((guesses == data.y_test).mean())
    return figures, device


def print_table(before: dict, after: dict) -> None:
    """The full network beside the pruned one."""

    def percent(share):
        return f"{100 * share:.2f}%"

    rows = (
        ("parameters", "params", "{:,}".format),
        ("MACs", "macs", "{:,}".format),
        ("int8 file, bytes", "int8_bytes", "{:,}".format),
        ("arena, bytes", "arena_bytes", "{:,}".format),
        ("test accuracy, float", "test_accuracy", percent),
        ("test accuracy, int8", "test_accuracy_int8", percent),
        ("peak training memory", "peak_memory", format_size),
        ("memory of last epoch", "last_memory", format_size),
        ("training time", "seconds", "{:.1f} s".format),
    )
    print(f"\n{'':<24}{'before':>14}{'after':>14}")
    for title, name, written in rows:
        cells = [
            "not measured" if run[name] is None else written(run[name]) for run in (before, after)
        ]
        print(f"{title:<24}{cells[0]:>14}{cells[1]:>14}")
    print()


def plot(epochs: list[dict], path: Path) -> None:
    """Widths, memory, batch size and accuracy over the epochs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    numbers = [epoch["epoch"] + 1 for epoch in epochs]
    logs = {name: [epoch["logs"][name] for epoch in epochs] for name in epochs[0]["logs"]}
    figure, ((widths, memory), (batch, accuracy)) = plt.subplots(
        2, 2, sharex=True, figsize=(9, 6), layout="constrained"
    )
    for name in epochs[0]["widths"]:
        values = [epoch["widths"].get(name, np.nan) for epoch in epochs]
        widths.plot(numbers, values, label=name)
    widths.set(title="neurons", ylim=(0, None))
    widths.xaxis.get_major_locator().set_params(integer=True)
    widths.legend(fontsize="small")
    memory.plot(numbers, np.array(logs["train_memory"]) / 2**20)
    memory.set(title="peak training memory, MB", ylim=(0, None))
    batch.step(numbers, logs["batch_size"], where="mid")
    batch.set(title="batch size", xlabel="epoch", ylim=(0, None))
    accuracy.plot(numbers, logs["accuracy"], label="training")
    accuracy.plot(numbers, logs["val_accuracy"], label="validation")
    accuracy.set(title="accuracy", xlabel="epoch")
    accuracy.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    app.run(main)
