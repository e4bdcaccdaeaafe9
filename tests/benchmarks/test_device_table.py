"""The device table: what it says is reached, and what it finds on disk."""

import importlib.util
import sys

import keras
import numpy as np
import pytest
from absl import flags

from keras_dynhp.export.tflite import export_tflite

FIGURES = {
    "epochs": 3,
    "params": 1000,
    "nonzero": 1000,
    "float_accuracy": 0.99,
    "int8_accuracy": 0.99,
    "flash": 2000,
    "file": {"kernels": 900, "biases": 100, "scales": 200, "zero points": 100, "tables": 700},
    "arena": 500,
    "macs": 900,
    "cycles": 100,
    "agreement": 1.0,
    "estimated_flash": 2040,
    "estimated_arena": 490,
    "milliseconds": 0.5,
    "call_milliseconds": 0.1,
}


@pytest.fixture(scope="module")
def table():
    """The module, whose flags are nobody else's business."""
    names = ("networks", "variants", "epochs", "models", "results")
    others = {name: flags.FLAGS[name] for name in names if name in flags.FLAGS}
    for name in others:
        delattr(flags.FLAGS, name)
    spec = importlib.util.find_spec("benchmarks.device_table")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    flags.FLAGS(["device_table"])
    yield module
    for name in names:
        delattr(flags.FLAGS, name)
    for name, flag in others.items():
        flags.FLAGS[name] = flag
    sys.modules.pop("benchmarks.device_table", None)


def lines(table, **smaller):
    page = table.page({"lenet_5": {"dense": FIGURES, "dynhp_4x": {**FIGURES, **smaller}}})
    return [line for line in page.splitlines() if line.startswith("| dynhp_4x")]


def test_goals_that_are_reached_and_missed(table):
    good = {"params": 250, "macs": 225, "flash": 555, "milliseconds": 0.25}
    figures, _, verdict = lines(table, **good, int8_accuracy=0.9871)
    assert verdict.count("reached") == 3
    assert "| 250 | 1,000 | 99.00 | 98.71 | 555 |" in figures
    *_, verdict = lines(table, **{**good, "flash": 560})
    assert "3.57 of 4.00, missed" in verdict and verdict.count("reached") == 2
    *_, verdict = lines(table, **{**good, "milliseconds": 0.26})
    assert "1.92 (2.50) of 4.00, missed" in verdict and verdict.count("reached") == 2
    *_, verdict = lines(table, **good, int8_accuracy=0.986)
    assert "+0.40, missed" in verdict and verdict.count("reached") == 2


def test_estimates_stand_beside_what_is_real(table):
    figures, *_ = lines(table)
    assert figures.endswith("| +2.0% | -2.0% |")


def test_what_a_file_holds(table, tmp_path):
    x = np.random.default_rng(0).normal(size=(100, 4, 4, 3))
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(5, 2, bias_initializer="ones")(inputs))
    path = tmp_path / "model.tflite"
    export_tflite(model, str(path), "int8", x)
    parts = table.contents(path.read_bytes())
    # Scales of 5 kernels, 5 biases, input and output; 5 zero points for kernels and biases alike.
    assert parts["kernels"] == 5 * 2 * 2 * 3 and parts["biases"] == 5 * 4
    assert parts["scales"] == 4 * (5 + 5 + 1 + 1)
    assert parts["zero points"] in (8 * (5 + 1), 8 * (5 + 2))
    assert sum(parts.values()) == path.stat().st_size


def test_the_ratios_that_no_file_can_exceed(table):
    half = {"kernels": 400, "biases": 50, "scales": 100, "zero points": 100, "tables": 700}
    _, parts, _ = lines(table, file=half)
    assert parts == "| dynhp_4x | 400 | 50 | 100 | 100 | 700 | 2.00 | 1.48 |"


def test_what_was_trained_as_long_is_not_trained_again(table, tmp_path, monkeypatch):
    monkeypatch.setattr(table.subprocess, "run", lambda *_, **__: pytest.fail("trained"))
    there = table.file_of("lenet_5", "dense", tmp_path)
    there.write_text("")
    table.train("lenet_5", "dense", tmp_path)
    assert str(table.SUBJECTS["lenet_5"].epochs) in there.name
