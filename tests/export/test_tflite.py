"""`export_tflite` on real runtimes: LiteRT and TensorFlow Lite Micro."""

import json
import os
import pathlib
import stat
import subprocess
import sys

import keras
import networks
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from keras import layers, ops

from keras_dynhp.export import convert, tflm
from keras_dynhp.export.data import read_samples
from keras_dynhp.export.tflite import export_tflite


def dense_net():
    return networks.with_weights(networks.lenet_300_100(0.1))


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "model.tflite")


@pytest.mark.sweep("int8")
@pytest.mark.parametrize("name", networks.NETWORKS)
@pytest.mark.parametrize("quantize", [None, "int8", "int16x8"])
def test_every_benchmark_network(name, quantize, path):
    model = networks.with_weights(networks.NETWORKS[name](0.25))
    x = networks.samples(model, 200)
    y = np.asarray(model(x)).argmax(axis=-1)
    data = tf.data.Dataset.from_tensor_slices((x, y))
    report = export_tflite(model, path, quantize, data)
    assert report.flash_bytes == os.path.getsize(path)
    assert report.agreement.samples == 200
    assert report.agreement.worst <= (1 if quantize else 1e-5)
    assert report.fidelity.worst_difference < (0.03 if quantize else 1e-5)
    assert report.float_accuracy == 1.0
    assert report.accuracy > 0.9
    assert report.inputs[0].shape == (1, *model.inputs[0].shape[1:])
    numbers = {None: "float32", "int8": "int8", "int16x8": "int16"}[quantize]
    assert report.inputs[0].dtype == report.outputs[0].dtype == numbers


def test_the_arena_is_the_smallest_that_runs(path):
    model = networks.with_weights(networks.ds_cnn(0.25))
    report = export_tflite(model, path, "int8", networks.samples(model, 100))
    x = [np.zeros((1, 49, 10, 1), np.int8)]
    tflm.run(path, x, report.ram_bytes)
    with pytest.raises(tflm.MicroRuntimeError):
        tflm.run(path, x, report.ram_bytes - 16)


@pytest.mark.parametrize("quantize", [None, "int8", "int16x8"])
def test_twice_the_same_model_is_twice_the_same_file(quantize, tmp_path):
    contents = []
    for number in range(2):
        # Made anew: the automatic names of layers differ and must not show.
        model = dense_net()
        model.set_weights([np.cos(np.arange(w.size)).reshape(w.shape) for w in model.get_weights()])
        path = tmp_path / f"{number}.tflite"
        export_tflite(model, str(path), quantize, networks.samples(model, 100))
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]


def test_file_has_no_names_and_aligned_constants(path):
    model = dense_net()
    report = export_tflite(model, path, "int8", networks.samples(model, 100))
    content = pathlib.Path(path).read_bytes()
    assert b"dense" not in content and b"MLIR" not in content
    weights = sum(w.size for w in model.get_weights() if w.ndim > 1)
    assert report.flash_bytes < weights + 200 * 4 + 1500
    assert Interpreter(model_content=content).get_signature_list() == {}
    kernel = min(model.get_weights(), key=lambda w: w.size if w.ndim > 1 else 1e9)
    scale = np.abs(kernel).max() / 127
    stored = np.round(kernel / scale).T.astype(np.int8).tobytes()
    assert content.index(stored) % 16 == 0


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_half_precision_is_exported_in_float32(policy, path):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu", dtype=policy),
            layers.TimeDistributed(layers.Dense(3, dtype=policy), dtype=policy),
            layers.Flatten(),
            layers.Dense(5, dtype="float32"),
        ]
    )
    model.compile("adam", "mse")
    report = export_tflite(model, path, None, networks.samples(model, 20))
    assert "CAST" not in {op.name for op in report.ops}
    assert report.fidelity.worst_difference < 0.02
    assert model.layers[0].dtype_policy.name == policy


def test_recurrent_layers_are_unrolled_where_they_are_quantized(path):
    inputs = keras.Input((6, 4))
    x = layers.Bidirectional(layers.LSTM(5, return_sequences=True))(inputs)
    model = keras.Model(inputs, layers.Dense(3)(layers.GRU(4)(x)))
    report = export_tflite(model, path, "int8", networks.samples(model, 100))
    assert "WHILE" not in {op.name for op in report.ops}
    assert report.fidelity.worst_difference < 0.1
    assert not model.layers[2].unroll


def test_a_loop_that_returns_every_step_is_right_on_the_device(path):
    """TensorFlow Lite Micro has no sizes that change; the last step alone needs none."""
    inputs = keras.Input((6, 4))
    x = layers.Bidirectional(layers.GRU(3, return_sequences=True))(inputs)
    model = keras.Model(inputs, layers.LSTM(4)(x))
    report = export_tflite(model, path, None, networks.samples(model, 20))
    assert report.agreement.worst < 1e-5 and report.fidelity.worst_difference < 1e-5
    assert sum(op.count for op in report.ops if op.name == "WHILE") == 1


def test_a_recurrent_network_is_the_same_file_each_time():
    """By chance, the quantizer left a SPLIT in float32."""
    inputs = keras.Input((4, 3))
    model = keras.Model(inputs, layers.Dense(2)(layers.GRU(3)(inputs)))
    samples = read_samples(model, networks.samples(model, 20))
    made = [convert.convert(model, "int8", samples) for _ in range(4)]
    assert len({one.content for one in made}) == 1
    assert not any(op.floating for op in made[0].operators)


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_operators_whose_reference_kernels_are_missing_or_wrong(quantize, path):
    # LiteRT's reference kernels lack ELU, and get the SUM of int8 wrong by most of its range.
    inputs = keras.Input((8,))
    x = layers.Dense(6, activation="elu")(inputs)
    model = networks.with_weights(keras.Model(inputs, ops.sum(x, axis=1, keepdims=True)))
    report = export_tflite(model, path, quantize, networks.samples(model, 200))
    assert {"ELU", "SUM"} < {op.name for op in report.ops}
    assert report.agreement.worst <= (1 if quantize else 1e-5)


def test_outputs_far_from_the_models_are_warned_of(path):
    # The converter gives the int16 sum the scale of its input: it saturates.
    inputs = keras.Input((8,))
    model = keras.Model(inputs, ops.sum(inputs, axis=1, keepdims=True))
    x = networks.samples(model, 200)
    with pytest.warns(UserWarning, match=r"outputs are up to \d.* off .* which span \d"):
        report = export_tflite(model, path, "int16x8", x)
    assert any("quantization breaks this network" in note for note in report.notes)


def test_a_runtime_that_computes_something_else_is_warned_of(path, monkeypatch):
    model = dense_net()
    x = networks.samples(model, 200)
    run = tflm.run
    monkeypatch.setattr(tflm, "run", lambda *args: [values ^ 64 for values in run(*args)])
    with pytest.warns(UserWarning, match="one of the two computes an operator wrongly"):
        report = export_tflite(model, path, "int8", x)
    assert report.agreement.worst >= 64
    assert report.agreement.in_value == pytest.approx(
        report.agreement.worst * report.outputs[0].scale
    )


class Twice(keras.Model):
    def call(self, x, training=None, mask=None):
        return 2 * super().call(x)


def test_a_model_inside_with_a_call_of_its_own_computes_what_that_says(path):
    inputs = keras.Input((3,))
    inner = Twice(inputs, layers.Dense(2)(inputs))
    model = keras.Sequential([inputs, layers.Dense(3), inner])
    report = export_tflite(model, path, None, np.ones((9, 3), "float32"))
    assert report.fidelity.worst_difference < 1e-6


def test_bad_models(path):
    with pytest.raises(TypeError, match=r"keras\.Model"):
        export_tflite(layers.Dense(3), path)
    with pytest.raises(ValueError, match="dynamic shape"):
        export_tflite(keras.Sequential([keras.Input((None, 3)), layers.Dense(2)]), path)
    with pytest.raises(ValueError, match="no graph"):
        export_tflite(keras.Sequential([layers.Dense(2)]), path)
    inputs = keras.Input((3,))
    with pytest.raises(ValueError, match="computes nothing"):
        export_tflite(keras.Model(inputs, layers.Dropout(0.5)(inputs)), path)
    with pytest.raises(
        ValueError, match=r"'own' \(Twice\) has no graph .*keras_dynhp.to_functional"
    ):
        export_tflite(Twice(inputs, inputs + 1, name="own"), path)
    model = dense_net()
    with pytest.raises(ValueError, match="int4"):
        export_tflite(model, path, "int4")
    with pytest.raises(ValueError, match="needs representative_data"):
        export_tflite(model, path, "int8")
    model.layers[1].bias.assign(model.layers[1].bias * np.nan)
    with pytest.raises(ValueError, match=r"bias.*NaN"):
        export_tflite(model, path)


def test_bad_data(path):
    model = dense_net()
    x = networks.samples(model, 50)
    x[[7, 9], 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"2 of 50 samples .* first of them sample 7"):
        export_tflite(model, path, "int8", x)
    with pytest.raises(ValueError, match=r"shape \(samples, 28, 28\)"):
        export_tflite(model, path, "int8", x[..., :5])
    with pytest.raises(ValueError, match="at least one"):
        export_tflite(model, path, "int8", x[:0])
    with pytest.raises(ValueError, match="empty"):
        export_tflite(model, path, "int8", tf.data.Dataset.from_tensor_slices(x).take(0))
    with pytest.raises(TypeError, match="str"):
        export_tflite(model, path, "int8", "mnist")
    with pytest.raises(TypeError, match="holds no numbers"):
        export_tflite(model, path, "int8", np.full((5, 28, 28), "a"))


def test_a_model_that_answers_nan_is_refused(path):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, ops.log(inputs - 0.5))
    x = np.full((100, 4), 0.7, "float32")
    x[5] = 0.1
    with pytest.raises(ValueError, match=r"NaN or infinite for 1 of 100 samples.*sample 5"):
        export_tflite(model, path, None, x)
    assert os.listdir(os.path.dirname(path)) == []


def test_doubtful_data_warns_with_numbers(path):
    model = dense_net()
    x = networks.samples(model, 60)
    with pytest.warns(UserWarning, match="60 samples"):
        report = export_tflite(model, path, "int8", x)
    assert "60 samples" in report.notes[0]
    x = networks.samples(model, 200)
    x[:3] *= 255
    with pytest.warns(UserWarning, match=r"3 of 200 samples .* 25\d\.\d times coarser"):
        export_tflite(model, path, "int8", x)


def test_an_unwritable_place_is_known_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "_runner", lambda *_: pytest.fail("converted"))

    def data():
        pytest.fail("read")
        yield

    with pytest.raises(FileNotFoundError, match="choose another path"):
        export_tflite(dense_net(), str(tmp_path / "nowhere" / "model.tflite"), "int8", data())
    with pytest.raises(IsADirectoryError, match="name of a file"):
        export_tflite(dense_net(), str(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        export_tflite(dense_net(), str(tmp_path / "file" / "model.tflite"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody who must not write")
def test_a_folder_that_must_not_be_written(tmp_path):
    model = dense_net()
    os.seteuid(65534)
    try:
        with pytest.raises(PermissionError, match="choose another path"):
            export_tflite(model, str(tmp_path / "model.tflite"))
    finally:
        os.seteuid(0)


def test_an_interrupted_export_leaves_what_was_there(path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with open(path, "wb") as file:
        file.write(b"the old one")
    monkeypatch.setattr(tflm, "measure_arena", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_tflite(dense_net(), path)
    assert os.listdir(os.path.dirname(path)) == ["model.tflite"]
    assert pathlib.Path(path).read_bytes() == b"the old one"


def test_the_file_has_ordinary_permissions(path):
    export_tflite(dense_net(), path)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o666 & ~mask


def test_without_the_extra_the_report_says_so(path, monkeypatch):
    monkeypatch.setattr(tflm.importlib.util, "find_spec", lambda name: None)
    model = dense_net()
    report = export_tflite(model, path, "int8", networks.samples(model, 100))
    assert report.ram_bytes is None and report.fidelity is None
    assert all('pip install "keras-dynhp[device]"' in note for note in report.notes)
    assert "not measured" in str(report)


def test_the_report_is_printable_and_plain(path):
    model = dense_net()
    report = export_tflite(model, path, "int8", networks.samples(model, 100))
    assert json.loads(json.dumps(report.to_dict()))["flash_bytes"] == report.flash_bytes
    printed = str(report)
    for part in (f"{report.flash_bytes:,}", f"{report.ram_bytes:,}", "FULLY_CONNECTED v"):
        assert part in printed


def test_an_export_is_quiet_and_the_probe_loads_no_tensorflow(tmp_path, start_alone):
    path = tmp_path / "m.tflite"
    program = (
        "import os, sys, keras, numpy as np\n"
        "from keras_dynhp.export.tflite import export_tflite\n"
        "model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])\n"
        "os.write(2, b'BEGIN')\n"
        "export_tflite(model, sys.argv[1], 'int8', np.random.rand(200, 4))\n"
        "os.write(2, b'END')\n"
    )
    output, errors = tmp_path / "output", tmp_path / "errors"
    process = start_alone(program, path, output=output, errors=errors)
    process.join(280)
    assert process.exitcode == 0, errors.read_text()
    assert output.read_text() == "" and "BEGINEND" in errors.read_text().replace("\n", "")
    probe = (
        f"import sys; sys.argv = ['', 'm.tflite', '1']; sys.path.insert(0, '')\n"
        f"exec(open({tflm._PROBE!r}).read())\n"
        "assert not any(name.split('.')[0] == 'tensorflow' for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", probe], cwd=tmp_path, check=True, capture_output=True)


def test_an_arena_in_which_the_runtime_never_comes_back_is_too_small(tmp_path):
    """Such as where the counter of a loop was overwritten."""
    fake = (
        "import os, sys, types\n"
        "class Interpreter:\n"
        "    def __init__(self, size): self.size = size\n"
        "    from_file = classmethod(lambda cls, path, arena_size: cls(arena_size))\n"
        "    def invoke(self):\n"
        "        while self.size < 1000: pass\n"
        "    def print_allocations(self): os.write(2, b'Arena allocation total 992 bytes')\n"
        "runtime = types.SimpleNamespace(Interpreter=Interpreter)\n"
        "name = 'tflite_micro.python.tflite_micro'\n"
        "sys.modules[name] = types.SimpleNamespace(runtime=runtime)\n"
        "sys.modules['tflite_micro'] = sys.modules['tflite_micro.python'] = types.ModuleType('')\n"
        "sys.argv, sys.path = ['', 'm.tflite', '0'], ['', *sys.path]\n"
        f"exec(open({tflm._PROBE!r}).read())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", fake], cwd=tmp_path, check=True, capture_output=True, timeout=60
    )
    assert int(done.stdout) == 1000
