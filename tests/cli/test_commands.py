"""The command line as scripts see it: real processes, their output and exit codes."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_dynhp as dynhp
from keras_dynhp.memory import largest_batch
from keras_dynhp.report.record import Report


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(24, "relu", name="first"),
            keras.layers.LayerNormalization(name="norm"),
            keras.layers.Dense(16, "relu", name="second"),
            keras.layers.Dense(3),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    random = np.random.default_rng(0)
    x, y = random.normal(size=(160, 6)).astype("float32"), random.integers(0, 3, 160)
    model.fit(x, y, verbose=0)
    model.save(folder / "model.keras")
    np.savez(folder / "data.npz", x=x, y=y)
    return folder


def run(folder, *arguments):
    command = [sys.executable, "-m", "keras_dynhp", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def complaint(done):
    """Our own words on stderr; TensorFlow's come with its import, before any flag is read."""
    lines = done.stderr.splitlines()
    (first,) = [number for number, line in enumerate(lines) if line.startswith("keras-dynhp:")]
    assert "Traceback" not in done.stderr
    return lines[first:]


def test_inspect(folder):
    done = run(folder, "inspect", "model.keras", "--json", "--batch_size=16", "--budget=2MB")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    model = keras.models.load_model(folder / "model.keras")
    assert found["parameters"] == model.count_params()
    assert found["macs"] == dynhp.count_macs(model) == 6 * 24 + 24 * 16 + 16 * 3
    assert found["memory"]["total"] == dynhp.estimate_memory(model, 16).total
    assert found["largest_batch"] == largest_batch(model, 2 * 2**20) > 16
    assert [(group["name"], group["size"]) for group in found["groups"]] == [("second", 16)]
    assert "normalizes over channels" in found["barriers"]["norm"]


def test_inspect_says_when_nothing_fits_the_budget(folder):
    done = run(folder, "inspect", "model.keras", "--budget=1KB")
    assert done.returncode == 3
    assert "largest batch    none" in done.stdout and "second" in done.stdout


@pytest.mark.parametrize("criterion", ["magnitude", "taylor"])
def test_prune(folder, criterion):
    out = f"{criterion}.keras"
    arguments = ["--params=450", f"--criterion={criterion}", f"--out={out}", "--data=data.npz"]
    done = run(folder, "prune", "model.keras", *arguments)
    assert done.returncode == 0, done.stderr
    small = keras.models.load_model(folder / out)
    assert (
        small.count_params() <= 450 < keras.models.load_model(folder / "model.keras").count_params()
    )
    assert f"-> {small.count_params():,}" in done.stdout
    assert "pruning model.keras" in done.stderr  # progress, off the output


def test_a_target_that_cannot_be_reached(folder):
    done = run(folder, "prune", "model.keras", "--params=10", "--out=no.keras")
    assert done.returncode == 3
    (line,) = complaint(done)
    assert "The smallest reachable target is params=" in line
    assert not (folder / "no.keras").exists()


def test_export(folder):
    arguments = ["--out=model.tflite", "--quantize=int8", "--data=data.npz", "--json"]
    done = run(folder, "export", "model.keras", *arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["flash_bytes"] == (folder / "model.tflite").stat().st_size


def test_errors_are_one_line_unless_debug(folder):
    arguments = ["export", "model.keras", "--out=none.tflite", "--quantize=int8"]
    done = run(folder, *arguments)
    assert done.returncode == 1 and not done.stdout
    (line,) = complaint(done)
    assert "needs representative_data" in line
    done = run(folder, *arguments, "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "needs representative_data" in done.stderr


def test_report(folder):
    pytest.importorskip("plotly")
    report = Report(
        before={"params": 100, "macs": 90, "neurons": 10, "widths": {"first": 10}},
        after={"params": 50, "macs": 45, "neurons": 5, "widths": {"first": 5}},
    )
    report.save(folder / "run")
    done = run(folder, "report", "run")
    assert done.returncode == 0, done.stderr
    assert "100 -> 50 (2.0x fewer)" in done.stdout
    assert "<h1>Pruning report</h1>" in (folder / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["shrink", "model.keras"], 2, "Received: 'shrink'. Usage"),
        (["inspect"], 2, "takes one path"),
        (["inspect", "model.keras", "--budgte=1MB"], 2, "budgte"),
        (["inspect", "absent.keras"], 1, "there is no model at absent.keras"),
    ],
)
def test_wrong_use(folder, arguments, code, message):
    done = run(folder, *arguments)
    assert done.returncode == code and not done.stdout
    assert message in complaint(done)[0]
