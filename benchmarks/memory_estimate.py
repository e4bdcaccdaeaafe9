"""The estimate of training memory against what TensorFlow's allocator measures.

    python -m benchmarks.memory_estimate

measures every case in a process of its own, several times, with and without oneDNN where this
processor has it, and writes benchmarks/results/memory_estimate.csv and .md. A quarter of an hour on
two idle cores.

    python -m benchmarks.memory_estimate --measure lenet_5 --batch 32 --optimizer adam --steps 100

prints one measurement as JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import pathlib
import platform
import subprocess
import sys
import time

RESULTS = pathlib.Path(__file__).parent / "results"
COMMAND = "python -m benchmarks.memory_estimate"

# What the estimate must reach: not more than 5% under the measured peak, not more than 25% over.
LEAST, MOST = 0.95, 1.25

# Network, batch, optimizer, steps. The first nine are the ones that must be met.
CORE = [
    ("lenet_300_100", 32, "adam", 500),
    ("lenet_300_100", 128, "adam", 300),
    ("lenet_300_100", 512, "adam", 100),
    ("lenet_5", 32, "adam", 200),
    ("lenet_5", 128, "adam", 60),
    ("lenet_5", 512, "adam", 20),
    ("resnet_8", 32, "adam", 40),
    ("resnet_8", 128, "adam", 12),
    ("resnet_8", 512, "adam", 4),
]
OTHERS = [
    ("lenet_300_100", 128, "sgd", 300),
    ("lenet_300_100", 128, "momentum", 300),
    ("lenet_5", 64, "sgd", 100),
    ("lenet_5", 64, "momentum", 100),
    ("pruned_lenet_300_100", 128, "adam", 300),
    ("pruned_lenet_5", 128, "adam", 100),
    ("pruned_resnet_8", 64, "adam", 30),
    ("ds_cnn", 64, "adam", 10),
    ("conv_1d", 32, "adam", 60),
    ("conv_1d", 256, "adam", 15),
    ("deep_mlp", 32, "sgd", 100),
    ("deep_mlp", 32, "adam", 60),
    ("transformer", 32, "adam", 20),
    ("recurrent", 32, "adam", 10),
    ("embedding", 512, "adam", 30),
    ("embedding", 2048, "adam", 30),
    ("embedding", 2048, "sgd", 30),
]
COLUMNS = [
    "network",
    "batch",
    "optimizer",
    "onednn",
    "estimated",
    "measured_least",
    "measured_most",
    "runs",
    "ratio",
]
PARTS = ["weights", "gradients", "optimizer_slots", "activations", "inputs", "workspace"]


def networks() -> dict:
    """Builders of the networks, by name."""
    import keras
    from keras import layers as L

    from examples import networks as examples

    def mlp(inputs: int, *widths: int):
        hidden = [L.Dense(width, "relu") for width in widths]
        return keras.Sequential([keras.Input((inputs,)), *hidden, L.Dense(10)])

    def lenet_5(first: int, second: int, hidden: int):
        convolutions = [
            layer
            for filters in (first, second)
            for layer in (L.Conv2D(filters, 5, activation="relu"), L.MaxPooling2D())
        ]
        head = [L.Flatten(), L.Dense(hidden, "relu"), L.Dense(10)]
        return keras.Sequential([keras.Input((28, 28, 1)), *convolutions, *head])

    def pruned_resnet_8():
        x = inputs = keras.Input((32, 32, 3))
        x = L.ReLU()(L.BatchNormalization()(L.Conv2D(6, 3, padding="same", use_bias=False)(x)))
        for inner, filters, strides in ((5, 6, 1), (12, 14, 2), (17, 23, 2)):
            y = L.Conv2D(inner, 3, strides, padding="same", use_bias=False)(x)
            y = L.ReLU()(L.BatchNormalization()(y))
            y = L.BatchNormalization()(L.Conv2D(filters, 3, padding="same", use_bias=False)(y))
            if strides > 1:
                x = L.BatchNormalization()(L.Conv2D(filters, 1, strides, use_bias=False)(x))
            x = L.ReLU()(L.Add()([x, y]))
        return keras.Model(inputs, L.Dense(10)(L.GlobalAveragePooling2D()(x)))

    def conv_1d():
        x = inputs = keras.Input((1000, 1))
        for filters in (16, 32, 64):
            x = L.Conv1D(filters, 9, padding="same", activation="relu")(x)
            x = L.MaxPooling1D(4)(x)
        return keras.Model(inputs, L.Dense(10)(L.Dropout(0.5)(L.Flatten()(x))))

    def transformer():
        x = inputs = keras.Input((64, 32))
        for _ in range(2):
            y = L.LayerNormalization()(x)
            x = L.Add()([x, L.MultiHeadAttention(4, 16)(y, y)])
            y = L.Dense(128, "gelu")(L.LayerNormalization()(x))
            x = L.Add()([x, L.Dense(32)(y)])
        return keras.Model(inputs, L.Dense(10)(L.GlobalAveragePooling1D()(x)))

    def recurrent():
        hidden = [L.LSTM(64, return_sequences=True), L.GRU(32)]
        return keras.Sequential([keras.Input((50, 20)), *hidden, L.Dense(10)])

    def embedding():
        hidden = [L.Embedding(5000, 32), L.GlobalAveragePooling1D()]
        return keras.Sequential([keras.Input((64,), dtype="int32"), *hidden, L.Dense(10)])

    return {
        **examples.NETWORKS,
        "resnet_8": lambda: examples.resnet_8((32, 32, 3)),
        "pruned_lenet_300_100": lambda: mlp(784, 60, 40),
        "pruned_lenet_5": lambda: lenet_5(5, 10, 40),
        "pruned_resnet_8": pruned_resnet_8,
        "conv_1d": conv_1d,
        "deep_mlp": lambda: mlp(512, *8 * [512]),
        "transformer": transformer,
        "recurrent": recurrent,
        "embedding": embedding,
    }


def measure(network: str, batch: int, optimizer: str, steps: int) -> dict:
    """One `fit`: its estimate, and the allocator's peak with no input pipeline but the batch.

    The pipeline gives the same batch at every step, without a copy, and does not tell its size
    in advance, as most do.
    """
    import keras
    import tensorflow as tf

    from keras_dynhp.memory import estimate_memory
    from keras_dynhp.memory import measure as allocator

    model = networks()[network]()
    choices = {"momentum": lambda: keras.optimizers.SGD(momentum=0.9)}
    model.compile(
        choices[optimizer]() if optimizer in choices else optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    shape = model.input_shape[1:]
    x, y = tf.random.normal((batch, *shape)), tf.zeros((batch,), tf.int64)
    if model.inputs[0].dtype == "int32":  # what an embedding looks up
        x = tf.random.uniform((batch, *shape), 0, 5000, tf.int32)
    unsized = tf.compat.v1.placeholder_with_default
    data = tf.data.Dataset.from_tensors((x, y)).repeat(steps)
    data = data.map(lambda x, y: (unsized(x, [None, *shape]), unsized(y, [None])))
    estimate = estimate_memory(model, batch)
    allocator.reset_peak()
    model.fit(data, verbose=0)
    return {
        "estimated": estimate.total,
        "measured": allocator.peak_bytes(),
        "parts": dict(zip(PARTS, estimate.to_dict().values())),
    }


def measured_apart(case: tuple, onednn: bool) -> dict:
    """The same in a process of its own, whose allocator counts."""
    network, batch, optimizer, steps = case
    arguments = ["--measure", network, "--batch", batch, "--optimizer", optimizer]
    command = [sys.executable, "-m", "benchmarks.memory_estimate", *arguments, "--steps", steps]
    environment = {
        "TF_CPU_ALLOCATOR_USE_BFC": "1",
        "TF_ENABLE_ONEDNN_OPTS": str(int(onednn)),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    result = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **environment},
        cwd=RESULTS.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise RuntimeError(f"{case} failed:\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def run(cases: list[tuple], runs: int) -> list[dict]:
    """A row for each case and each set of kernels that this processor has."""
    from keras_dynhp.memory.machine import uses_onednn

    rows = []
    for onednn in sorted({uses_onednn(), False}, reverse=True):
        for case in cases:
            found = [measured_apart(case, onednn) for _ in range(runs)]
            peaks = [one["measured"] for one in found]
            rows.append(
                {
                    **dict(zip(COLUMNS, case[:3])),
                    "onednn": onednn,
                    "estimated": found[0]["estimated"],
                    "measured_least": min(peaks),
                    "measured_most": max(peaks),
                    "runs": runs,
                    "ratio": round(found[0]["estimated"] / max(peaks), 3),
                    **found[0]["parts"],
                }
            )
            print(rows[-1], flush=True)
    return rows


def write(rows: list[dict], seconds: float) -> None:
    """The table as .csv, and as .md with what it was made with."""
    import keras
    import tensorflow as tf

    from benchmarks.tables import markdown

    with open(RESULTS / "memory_estimate.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, [*COLUMNS, *PARTS], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    lines = []
    for row in rows:
        span = [f"{row[name] / 1e6:.1f}" for name in ("measured_least", "measured_most")]
        held = LEAST <= row["ratio"] <= MOST
        core = (row["network"], row["batch"], row["optimizer"]) in {case[:3] for case in CORE}
        lines.append(
            [
                f"{'**' if core else ''}{row['network']}{'**' if core else ''}",
                str(row["batch"]),
                row["optimizer"],
                "oneDNN" if row["onednn"] else "TensorFlow",
                f"{row['estimated'] / 1e6:.1f}",
                " to ".join(dict.fromkeys(span)),
                f"{row['ratio']:.2f}",
                "yes" if held else "no",
            ]
        )
    header = ["network", "batch", "optimizer", "kernels", "estimated", "measured", "ratio", "held"]
    text = (
        f"Training memory in MB (10^6 bytes), estimated and measured by TensorFlow's allocator: "
        f"`{COMMAND}`, {rows[0]['runs']} runs each, {seconds / 60:.0f} minutes. Python "
        f"{platform.python_version()}, TensorFlow {tf.__version__}, Keras {keras.__version__}, "
        f"{os.cpu_count()} cores. The ratio is to the highest of the runs; held: between {LEAST} "
        f"and {MOST}. In bold what must be held.\n\n"
    )
    (RESULTS / "memory_estimate.md").write_text(text + markdown(header, lines))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", help="one network, in this process")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--optimizer", default="adam")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.measure:
        case = (arguments.measure, arguments.batch, arguments.optimizer, arguments.steps)
        print(json.dumps(measure(*case)))
        return
    began = time.perf_counter()
    rows = run(CORE + OTHERS, arguments.runs)
    write(rows, time.perf_counter() - began)


if __name__ == "__main__":
    main()
