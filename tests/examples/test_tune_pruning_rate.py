"""The search as a person runs it: a process, its flags, what it says and its files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ai_edge_litert.interpreter import Interpreter

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "tune_pruning_rate.py"


@pytest.mark.slow
def test_a_search_ends_with_a_front_a_choice_and_a_verdict(tmp_path):
    flags = ("--dataset=digits", "--network=lenet_300_100", "--samples=500", "--trials=2")
    command = [sys.executable, str(SCRIPT), *flags, "--epochs=3", f"--out={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Trial 2 Complete" in done.stdout and "Epoch 3/3" in done.stdout  # progress
    assert "Under 48.0 KB, take trial" in done.stdout
    results = json.loads((tmp_path / "front.json").read_text())
    searched, default = results["searched"], results["default"]
    assert default["params"] <= searched["params"] < 266_610 / 5
    for part in ("validation", "test"):
        better = searched[part] > default[part]
        verdict = "beats" if better else "does not beat"
        assert f"On {part} data the search {verdict} the default settings" in done.stdout
    file = (tmp_path / "model.tflite").read_bytes()
    assert len(file) == results["chosen"]["flash"] <= 48 * 1024
    Interpreter(model_content=file).allocate_tensors()
    assert (tmp_path / "front.png").stat().st_size > 5_000
