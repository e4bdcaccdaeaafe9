"""The command line as scripts see it: output and exit codes."""

import json
import subprocess
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_dynhp as dynhp
from keras_dynhp.cli import commands, main
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


@pytest.fixture
def run(folder, monkeypatch, capfd):
    """Runs a command where the files are, in this process: loading TensorFlow takes seconds."""
    monkeypatch.chdir(folder)

    def run(*arguments):
        capfd.readouterr()
        code = main(["keras-dynhp", *arguments])
        return types.SimpleNamespace(returncode=code, **capfd.readouterr()._asdict())

    return run


def complaint(done):
    """Our own words on stderr."""
    lines = done.err.splitlines()
    (first,) = [number for number, line in enumerate(lines) if line.startswith("keras-dynhp:")]
    assert "Traceback" not in done.err
    return lines[first:]


def test_a_process_of_its_own(folder, run_alone):
    """The command that the package installs, and as a module."""
    command = [str(Path(sys.executable).parent / "keras-dynhp"), "inspect", "model.keras", "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["macs"] == 6 * 24 + 24 * 16 + 16 * 3
    program = "import runpy; runpy.run_module('keras_dynhp', run_name='__main__')"
    assert run_alone(program, "inspect", folder / "model.keras", "--json") == done.stdout


def test_a_program_may_have_flags_of_the_same_names(tmp_path, start_alone):
    program = """
from absl import app, flags
flags.DEFINE_string("out", "mine", "")
flags.DEFINE_bool("debug", True, "")
from keras_dynhp import cli
def main(argv):
    code = cli.main(["x", "inspect", "absent.keras", "--out=theirs"])
    print(argv[1:], code, flags.FLAGS.out, flags.FLAGS.debug)
app.run(main)
"""
    output, errors = tmp_path / "output", tmp_path / "errors"
    process = start_alone(program, "word", "--nodebug", output=output, errors=errors)
    process.join(280)
    assert output.read_text() == "['word'] 1 mine False\n", errors.read_text()
    last = errors.read_text().splitlines()[-1]
    assert last.startswith("keras-dynhp: FileNotFoundError: there is no")


def test_inspect(folder, run):
    done = run("inspect", "model.keras", "--json", "--batch_size=16", "--budget=2MB")
    assert done.returncode == 0, done.err
    found = json.loads(done.out)
    model = keras.models.load_model(folder / "model.keras")
    assert found["parameters"] == model.count_params()
    assert found["macs"] == dynhp.count_macs(model) == 6 * 24 + 24 * 16 + 16 * 3
    assert found["memory"]["total"] == dynhp.estimate_memory(model, 16).total
    assert found["largest_batch"] == largest_batch(model, 2 * 2**20) > 16
    assert [(group["name"], group["size"]) for group in found["groups"]] == [("second", 16)]
    assert "normalizes over channels" in found["barriers"]["norm"]


def test_inspect_says_when_nothing_fits_the_budget(run):
    done = run("inspect", "model.keras", "--budget=1KB")
    assert done.returncode == 3
    assert "largest batch    none" in done.out and "second" in done.out


@pytest.mark.parametrize("criterion", ["magnitude", "taylor"])
def test_prune(folder, run, criterion):
    out = f"{criterion}.keras"
    arguments = ["--params=450", f"--criterion={criterion}", f"--out={out}", "--data=data.npz"]
    done = run("prune", "model.keras", *arguments)
    assert done.returncode == 0, done.err
    small = keras.models.load_model(folder / out)
    assert (
        small.count_params() <= 450 < keras.models.load_model(folder / "model.keras").count_params()
    )
    assert f"-> {small.count_params():,}" in done.out
    assert "pruning model.keras" in done.err  # progress, off the output


def test_prune_reads_no_more_data_than_it_needs(folder, run, monkeypatch):
    """Of data in the order of their labels some of all are read."""
    monkeypatch.setattr(commands, "SAMPLES", 20)
    prune, given = dynhp.prune, []
    monkeypatch.setattr(dynhp, "prune", lambda *values: given.extend(values) or prune(*values))
    arguments = ["--params=450", "--criterion=taylor", "--out=few.keras", "--data=data.npz"]
    done = run("prune", "model.keras", *arguments)
    assert done.returncode == 0, done.err
    assert "by 20 samples of data.npz" in done.err
    read = np.concatenate([x for x, _ in given[3].as_numpy_iterator()])
    assert read.shape == (20, 6) and not np.isin(read, np.load("data.npz")["x"][:20]).all()


def test_labels_of_other_samples(folder, run):
    np.savez(folder / "short.npz", x=np.zeros((9, 6), "float32"), y=np.zeros(8, int))
    arguments = ["--params=450", "--criterion=taylor", "--out=no.keras", "--data=short.npz"]
    done = run("prune", "model.keras", *arguments)
    assert done.returncode == 1 and not (folder / "no.keras").exists()
    assert "received {'x': 9, 'y': 8}" in done.err and "Traceback" not in done.err


def test_a_target_that_cannot_be_reached(folder, run):
    done = run("prune", "model.keras", "--params=10", "--out=no.keras")
    assert done.returncode == 3
    (line,) = complaint(done)
    assert "The smallest reachable target is params=" in line
    assert not (folder / "no.keras").exists()


def test_export(folder, run):
    arguments = ["--out=model.tflite", "--quantize=int8", "--data=data.npz", "--json"]
    done = run("export", "model.keras", *arguments)
    assert done.returncode == 0, done.err
    assert json.loads(done.out)["flash_bytes"] == (folder / "model.tflite").stat().st_size


def test_export_with_labels_tells_accuracies(run):
    done = run("export", "model.keras", "--out=model.tflite", "--data=data.npz")
    assert done.returncode == 0 and "on 160 samples" in done.out and "accuracy" in done.out


def test_samples_of_one_array(folder, run):
    np.save(folder / "data.npy", np.load(folder / "data.npz")["x"])
    done = run("export", "model.keras", "--out=one.tflite", "--quantize=int8", "--data=data.npy")
    assert done.returncode == 0 and "accuracy" not in done.out, done.err


def test_several_inputs_by_name(folder, run):
    inputs = [keras.Input((4,), name="left"), keras.Input((3,), name="right")]
    hidden = keras.layers.Dense(8, "relu")(keras.layers.Concatenate()(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2)(hidden))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.save(folder / "two.keras")
    random = np.random.default_rng(0)
    arrays = {"left": random.normal(size=(120, 4)), "right": random.normal(size=(120, 3))}
    np.savez(folder / "two.npz", y=random.integers(0, 2, 120), **arrays)
    done = run("export", "two.keras", "--out=two.tflite", "--quantize=int8", "--data=two.npz")
    assert done.returncode == 0 and "accuracy" in done.out, done.err
    arguments = ["--out=less.keras", "--criterion=taylor", "--compression=2", "--data=two.npz"]
    done = run("prune", "two.keras", *arguments)
    assert done.returncode == 0 and "by 120 samples" in done.err, done.err
    done = run("export", "two.keras", "--out=two.tflite", "--data=data.npz")
    assert done.returncode == 1
    assert "data.npz must hold an array for each input of the model, named left, right" in done.err


@pytest.mark.parametrize("content", [b"", b"nothing", "cut.npz", "cut.npy"])
def test_files_that_cannot_be_read_are_named(folder, run, content):
    path = content if isinstance(content, str) else "bad.npz"
    if path == "cut.npy":
        np.save(folder / "whole.npy", np.zeros((50, 6)))
        content = (folder / "whole.npy").read_bytes()[:-9]
    elif path == "cut.npz":
        content = (folder / "data.npz").read_bytes()[:-99]
    (folder / path).write_bytes(content)
    done = run("export", "model.keras", "--out=no.tflite", f"--data={path}")
    assert done.returncode == 1
    (line,) = complaint(done)
    assert f"{path} cannot be read as an .npy or .npz file" in line


def test_errors_are_one_line_unless_debug(run):
    arguments = ["export", "model.keras", "--out=none.tflite", "--quantize=int8"]
    done = run(*arguments)
    assert done.returncode == 1 and not done.out
    (line,) = complaint(done)
    assert "needs representative_data" in line
    with pytest.raises(ValueError, match="needs representative_data"):
        run(*arguments, "--debug")


def test_help_and_flags_of_an_earlier_call(run):
    assert run("inspect", "model.keras", "--batch_size=16").out.count("a batch of 16") == 1
    assert run("inspect", "model.keras").out.count("a batch of 32") == 1
    done = run("--help")
    assert done.returncode == 0 and not done.err
    assert "export   Write a model as .tflite" in done.out and "--compression" in done.out


def test_report(folder, run):
    pytest.importorskip("plotly")
    report = Report(
        before={"params": 100, "macs": 90, "neurons": 10, "widths": {"first": 10}},
        after={"params": 50, "macs": 45, "neurons": 5, "widths": {"first": 5}},
    )
    report.save(folder / "run")
    for path in ("run", "run/report.json"):
        (folder / "run" / "report.html").unlink(missing_ok=True)
        done = run("report", path)
        assert done.returncode == 0, done.err
        assert "100 -> 50 (2.0x fewer)" in done.out
    assert "<h1>Pruning report</h1>" in (folder / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["shrink", "model.keras"], 2, "Received: 'shrink'. Usage"),
        (["inspect"], 2, "takes one path"),
        (["inspect", "model.keras", "--budgte=1MB"], 2, "budgte"),
        (["inspect", "absent.keras"], 1, "there is no model at absent.keras"),
        (["inspect", "model.keras", "--budget=much"], 2, "Received: 'much'"),
        (["inspect", "model.keras", "--batch_size=0"], 2, "0 is not a positive integer"),
        (["inspect", "model.keras", "--optimizer=foo"], 2, "foo"),
        (["prune", "model.keras", "--params=9"], 2, "--out must name the .keras file"),
        (["prune", "model.keras", "--out=no.keras"], 2, "at least one limit"),
        (["prune", "model.keras", "--out=no.keras", "--compression=0.5"], 2, "above 1"),
        (["prune", "model.keras", "--out=no.keras", "--params=-5"], 2, "-5 is not a positive"),
        (["prune", "model.keras", "--out=no.keras", "--flash=0"], 2, "positive number of bytes"),
        (["prune", "model.keras", "--out=no.keras", "--criterion=luck"], 2, "taylor"),
        (["export", "model.keras"], 2, "--out must name the .tflite file"),
        (["report", "data.npz"], 1, "data.npz is no report.json of a run"),
    ],
)
def test_wrong_use(run, arguments, code, message):
    done = run(*arguments)
    assert done.returncode == code and not done.out
    assert message in complaint(done)[0]


def test_a_model_that_leaves_a_length_open(run, folder):
    model = keras.Sequential(
        [
            keras.Input((None, 4)),
            keras.layers.LSTM(8, name="reads"),
            keras.layers.Dense(6, name="thinks"),
            keras.layers.Dense(2),
        ]
    )
    model.save(folder / "open.keras")
    done = run("inspect", "open.keras")
    assert done.returncode == 0 and "axis of unknown length" in done.out and "reads" in done.out
    found = json.loads(run("inspect", "open.keras", "--json").out)
    assert found["parameters"] == model.count_params() and "macs" not in found
    done = run("inspect", "open.keras", "--budget=4MB")
    assert done.returncode == 0 and "axis of unknown length" in done.out and "reads" in done.out
    assert "largest batch    unknown, as the memory is" in done.out
    found = json.loads(run("inspect", "open.keras", "--budget=4MB", "--json").out)
    assert "axis of unknown length" in found["unknown"] and "largest_batch" not in found
    done = run("prune", "open.keras", "--out=less.keras", "--compression=2")
    assert done.returncode == 0 and "parameters" in done.out and "macs" not in done.out
