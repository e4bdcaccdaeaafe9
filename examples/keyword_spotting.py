"""Spoken digits on a microcontroller: DS-CNN, pruned to 32 KB of flash and 16 KB of arena.

    python examples/keyword_spotting.py --out=runs/keywords

Trains on `spoken_digit` (2,500 recordings; the test split is the data set authors': recordings 0 to
4 of each speaker and digit), prunes to the target on the way, exports int8, and writes to `--out`
what tflite/firmware needs: the model's sources and features.h, the constants with which firmware
computes the same log-mel features. The full network is trained alike, for comparison.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import datasets
import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from networks import ds_cnn

import keras_dynhp as dynhp
from keras_dynhp.export.device import device_report
from keras_dynhp.export.sources import generate

FLAGS = flags.FLAGS
flags.DEFINE_string("flash", "32KB", "The most bytes of the int8 file.")
flags.DEFINE_string("ram", "16KB", "The most bytes of the tensor arena.")
flags.DEFINE_integer("epochs", 40, "Epochs of training.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seeds weights and the order of the data.")
flags.DEFINE_string("out", "runs/keywords", "The folder for what comes out.")

BATCH_SIZE = 32
LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def main(argv):
    """Train, prune, export, compare."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    out = Path(FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    data = datasets.spoken_digit()
    target = dynhp.Target(flash=FLAGS.flash, ram=FLAGS.ram)
    print(f"Training DS-CNN on {len(data.x_train)} recordings, pruned on the way to {target}")
    hp = dynhp.DynHP(target=target)
    small = train(data, [hp])
    print(hp.report)
    print("Training DS-CNN unpruned, for comparison")
    full = train(data, [])

    before = measure(full, data, out / "full.tflite")
    (out / "full.tflite").unlink()
    after = measure(small, data, out / "model.tflite")
    small.save(out / "model.keras")
    content = (out / "model.tflite").read_bytes()
    texts = generate(content, after, LABELS, "examples/keyword_spotting.py")
    features, _, test = datasets.spoken_digit_features()
    texts["features.h"] = feature_constants(features[~test].mean(), features[~test].std())
    texts["report.json"] = json.dumps(
        {"before": before.to_dict(), "after": after.to_dict()}, indent=2
    )
    texts["report.md"] = page(
        {"before": (full.count_params(), before), "after": (small.count_params(), after)}
    )
    for name, text in texts.items():
        (out / name).write_text(text)
    print(f"\nbefore\n{before}\n\nafter\n{after}\n\n{texts['report.md']}")
    print(f"Wrote model.keras, model.tflite, {', '.join(texts)} to {out}")


def train(data: datasets.Data, callbacks: list) -> keras.Model:
    """The network after `fit`."""
    keras.utils.set_random_seed(FLAGS.seed)
    model = ds_cnn(data.input_shape, data.classes)
    model.compile(
        keras.optimizers.Adam(2e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    decay = keras.callbacks.LearningRateScheduler(
        lambda epoch: 1e-3 * (1 + np.cos(np.pi * epoch / FLAGS.epochs))
    )
    model.fit(
        datasets.batches(data.x_train, data.y_train, BATCH_SIZE, FLAGS.seed),
        epochs=FLAGS.epochs,
        shuffle=False,  # `batches` does
        callbacks=[decay, *callbacks],
        verbose=2,
    )
    return model


def measure(model: keras.Model, data: datasets.Data, path: Path):
    """The int8 file, and its report on the test recordings."""
    chosen = np.random.default_rng(FLAGS.seed).choice(len(data.x_train), 500, replace=False)
    dynhp.export_tflite(model, str(path), "int8", data.x_train[chosen])
    test = tf.data.Dataset.from_tensor_slices((data.x_test, data.y_test)).batch(100)
    return device_report(str(path), model, test)


def page(networks: dict) -> str:
    """Before and after, side by side: for each its parameters and its device report."""
    figures = {
        "parameters": [f"{params:,}" for params, _ in networks.values()],
        "int8 file, bytes": [f"{report.flash_bytes:,}" for _, report in networks.values()],
        "tensor arena, bytes": [f"{report.ram_bytes:,}" for _, report in networks.values()],
        "multiply-accumulates": [f"{report.macs:,}" for _, report in networks.values()],
        "test accuracy, float": [f"{report.float_accuracy:.2%}" for _, report in networks.values()],
        "test accuracy, int8": [f"{report.accuracy:.2%}" for _, report in networks.values()],
        "TensorFlow Lite Micro and LiteRT": [
            str(report.agreement) for _, report in networks.values()
        ],
    }
    rows = [["", *networks], ["---"] * (1 + len(networks))]
    rows += [[name, *values] for name, values in figures.items()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def feature_constants(mean: float, deviation: float) -> str:
    """C++ constants with which firmware computes the features that the network was trained on."""
    mel = tf.signal.linear_to_mel_weight_matrix(
        datasets.MEL_BINS,
        datasets.FFT // 2 + 1,
        datasets.SAMPLE_RATE,
        datasets.LOWEST,
        datasets.HIGHEST,
    ).numpy()
    window = tf.signal.hann_window(datasets.FRAME).numpy()
    rows = ",\n".join("    {" + _numbers(row) + "}" for row in mel.T)
    frames = 1 + (datasets.SAMPLE_RATE - datasets.FRAME) // datasets.STEP
    return f"""// Written by examples/keyword_spotting.py: the features that the network has learnt.
//
// 1. One second of sound, cut or filled with zeros, as real numbers: int16 / 32768.
// 2. Frame number f holds samples f * kStep to f * kStep + kFrame; each is multiplied by kWindow.
// 3. The magnitudes of the frame's discrete Fourier transform of length kFft: kFft / 2 + 1 of them.
// 4. Each mel bin is the sum over the magnitudes of kMel[bin][k] * magnitude[k].
// 5. The natural logarithm of (mel + kFloor), then (that - kMean) / kDeviation.
// The network's input holds frame by frame, bin by bin.
#pragma once

namespace features {{

constexpr int kSampleRate = {datasets.SAMPLE_RATE};
constexpr int kFrames = {frames};
constexpr int kFrame = {datasets.FRAME};
constexpr int kStep = {datasets.STEP};
constexpr int kFft = {datasets.FFT};
constexpr int kBins = {datasets.MEL_BINS};
constexpr float kFloor = {datasets.FLOOR!r}f;
constexpr float kMean = {mean:.8g}f;
constexpr float kDeviation = {deviation:.8g}f;

constexpr float kWindow[kFrame] = {{{_numbers(window)}}};

constexpr float kMel[kBins][kFft / 2 + 1] = {{
{rows}}};

}}  // namespace features
"""


def _numbers(values) -> str:
    return ", ".join(f"{value:.8e}f" for value in values)


if __name__ == "__main__":
    app.run(main)
