"""`device_report` and Vela's figures."""

import networks
import numpy as np
import pytest

from keras_dynhp.export import flatbuffer, vela
from keras_dynhp.export.device import device_report
from keras_dynhp.export.tflite import export_tflite


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model = networks.with_weights(networks.ds_cnn(0.25))
    path = str(tmp_path_factory.mktemp("device") / "model.tflite")
    return model, path, export_tflite(model, path, "int8", networks.samples(model, 100))


def test_it_measures_what_the_export_did(exported):
    model, path, report = exported
    again = device_report(path, model, networks.samples(model, 100), npu="ethos-u55-128")
    for name in ("quantize", "flash_bytes", "ram_bytes", "macs", "ops", "inputs", "agreement"):
        assert getattr(again, name) == getattr(report, name)
    assert again.npu.cpu_operators == 0 and again.npu.npu_operators > 0
    assert "ethos-u55-128" in str(again)


def test_samples_that_calibration_never_saw_are_counted(exported):
    model, path, _ = exported
    x = networks.samples(model, 50)
    x[[3, 4, 20], 0, 0, 0] = 7
    notes = device_report(path, model, x).notes
    assert any(
        note.startswith("3 of 50 samples of input 0 are clipped: they reach from ")
        and "to 7," in note
        for note in notes
    )
    assert not any("clipped" in note for note in device_report(path, model, x[30:]).notes)


def test_vela_counts_more_for_more(exported, tmp_path):
    _, path, report = exported
    small = vela.measure(path, "ethos-u55-32")
    large = vela.measure(path, "ethos-u55-256")
    assert small.cycles > large.cycles > 0
    # 32 multiply-accumulates a cycle are the most that the smallest one can do.
    assert small.cycles > report.macs / 32
    assert large.sram_bytes > 0 and large.flash_bytes > 0


def test_fallbacks_are_named(tmp_path):
    import keras

    inputs = keras.Input((8,))
    hidden = keras.ops.sin(keras.layers.Dense(4)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2)(hidden))
    path = str(tmp_path / "model.tflite")
    export_tflite(model, path, "int8", networks.samples(model, 100))
    figures = vela.measure(path)
    assert figures.cpu_operators == 3 and "SIN" in figures.cpu_fallbacks
    assert "SIN" in str(figures)


def test_bad_files(exported, tmp_path):
    model, path, _ = exported
    bad = tmp_path / "bad.tflite"
    bad.write_bytes(b"no flatbuffer at all")
    with pytest.raises(ValueError, match="not a TensorFlow Lite file"):
        device_report(str(bad), model)
    with open(path, "rb") as file:
        tree = flatbuffer.read(file.read())
    tree.signatureDefs = [flatbuffer.schema.SignatureDefT(signatureKey=key) for key in "ab"]
    bad.write_bytes(flatbuffer.compact(tree))
    with pytest.raises(ValueError, match="2 signatures"):
        device_report(str(bad), model)
    with pytest.raises(ValueError, match="ethos-u55-7"):
        vela.measure(path, "ethos-u55-7")
    with pytest.raises(FileNotFoundError):
        device_report(str(tmp_path / "none.tflite"), model)


def test_missing_extra(exported, monkeypatch):
    model, path, _ = exported
    monkeypatch.setattr(vela.importlib.util, "find_spec", lambda name: None)
    report = device_report(path, model, np.zeros((10, 49, 10, 1)), npu="ethos-u55-128")
    assert report.npu is None and report.ram_bytes is None
    assert len(report.notes) == 3
    with pytest.raises(ImportError, match=r"keras-dynhp\[device\]"):
        vela.measure(path)


def test_a_float_file_of_other_weights_is_not_said_to_be_quantized(tmp_path):
    model = networks.with_weights(networks.ds_cnn(0.25))
    path = str(tmp_path / "model.tflite")
    export_tflite(model, path)
    last = model.layers[-1]
    last.set_weights([-weights for weights in last.get_weights()])
    with pytest.warns(UserWarning, match="not the file of this model"):
        report = device_report(path, model, networks.samples(model, 20))
    assert not any("quantization" in note for note in report.notes)
