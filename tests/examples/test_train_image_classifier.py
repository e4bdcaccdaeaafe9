"""The main job as a person runs it: a process, its flags, its table and its files."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "train_image_classifier.py"


def run(*flags):
    command = [sys.executable, str(SCRIPT), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    flags = ("--epochs=3", "--compression=8", "--budget=32MB", "--prune_inputs", f"--out={out}")
    return run(*flags), out


def test_it_ends_well_and_prints_the_table(finished):
    process, _ = finished
    assert process.returncode == 0, process.stderr[-3000:]
    table = process.stdout[process.stdout.rindex("before") :]
    for line in (
        *("parameters", "MACs", "int8 file, bytes", "arena, bytes", "test accuracy, float"),
        *("test accuracy, int8", "peak training memory", "training time"),
    ):
        assert line in table
    assert "Epoch 3/3" in process.stdout  # the progress bar


def test_it_writes_what_it_says(finished):
    _, out = finished
    names = {path.name for path in out.iterdir()}
    assert names == {"model.keras", "model.tflite", "report.json", "report.png"}
    report = json.loads((out / "report.json").read_text())
    before, after = report["before"], report["after"]
    model = keras.saving.load_model(out / "model.keras")
    assert model.count_params() == after["params"] <= before["params"] / 8
    assert (out / "model.tflite").stat().st_size == after["int8_bytes"] < before["int8_bytes"] / 4
    assert after["macs"] < before["macs"]
    assert before["seconds"] > 0 and after["seconds"] > 0
    assert 0 < after["last_memory"] < before["peak_memory"]
    assert report["flags"]["compression"] == 8 and report["flags"]["prune_inputs"] is True
    assert len(report["pruning"]["epochs"]) == 3


def test_memory_is_in_bytes_of_the_right_size(finished):
    """The full network alone: weights, gradients and two slots of Adam for 266,610 parameters."""
    _, out = finished
    before = json.loads((out / "report.json").read_text())["before"]
    assert 4 * 4 * 266_610 < before["peak_memory"] < 10 * 4 * 266_610


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--network=vgg", "network"),
        ("--budget=much", "budget"),
        ("--params=3", "smallest reachable"),
    ],
)
def test_a_bad_flag_is_refused_by_name(flag, said, tmp_path, start_alone):
    output, errors = tmp_path / "output", tmp_path / "errors"
    process = start_alone(SCRIPT, flag, f"--out={tmp_path}", output=output, errors=errors)
    process.join(280)
    assert process.exitcode not in (0, None)
    assert said in errors.read_text()
