"""`tflite/convert.py`: the files it writes, what compilers make of them, and bad input."""

import importlib.util
import json
import pathlib
import shutil
import subprocess

import keras
import networks
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

ROOT = pathlib.Path(__file__).parents[2]
COMMON = ROOT / "tflite" / "firmware" / "common"


@pytest.fixture(scope="module")
def command():
    spec = importlib.util.spec_from_file_location("tflite_convert", ROOT / "tflite" / "convert.py")
    module = importlib.util.module_from_spec(spec)
    # It is a program of its own; another's flags of the same names step aside for it.
    names = ("quantize", "data", "out", "labels", "npu")
    others = {name: flags.FLAGS[name] for name in names if name in flags.FLAGS}
    for name in others:
        delattr(flags.FLAGS, name)
    spec.loader.exec_module(module)
    flags.FLAGS(["convert.py", "--out=unused"])
    yield module
    for name in names:
        delattr(flags.FLAGS, name)
    for name, flag in others.items():
        flags.FLAGS[name] = flag


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    network = networks.with_weights(networks.ds_cnn(0.25))
    x = networks.samples(network, 120)
    network.save(folder / "net.keras")
    np.savez(folder / "data.npz", x=x, y=np.asarray(network(x)).argmax(axis=-1))
    np.save(folder / "data.npy", x)
    return folder


@pytest.fixture(scope="module")
def written(command, model, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    labels = [f"word {n}" for n in range(11)] + ['a "quoted" \\ ü']
    with flagsaver.flagsaver(data=str(model / "data.npz"), labels=labels, npu="ethos-u55-64"):
        text = command.convert(str(model / "net.keras"), str(out))
    assert text == (out / "report.md").read_text()
    return out


def test_everything_is_written(written):
    assert sorted(file.name for file in written.iterdir()) == [
        "model.tflite",
        "model_data.cc",
        "model_data.h",
        "model_settings.h",
        "op_resolver.h",
        "report.json",
        "report.md",
    ]
    report = json.loads((written / "report.json").read_text())
    assert report["flash_bytes"] == (written / "model.tflite").stat().st_size
    assert report["fidelity"]["accuracy"] > 0.9
    assert report["npu"]["cycles"] > 0
    assert report["agreement"]["samples"] == 120


def test_the_array_is_the_file(written):
    text = (written / "model_data.cc").read_text()
    body = text[text.index("{") : text.index("}")]
    listed = bytes(int(word.strip("{}, \n"), 16) for word in body.split(",") if "0x" in word)
    assert listed == (written / "model.tflite").read_bytes()
    assert "alignas(16) const" in text


def test_the_resolver_has_exactly_the_operators(written):
    text = (written / "op_resolver.h").read_text()
    report = json.loads((written / "report.json").read_text())
    assert text.count("resolver.Add") == len(report["ops"])
    assert f"MicroMutableOpResolver<{len(report['ops'])}>" in text
    for method in ("AddConv2D", "AddDepthwiseConv2D", "AddFullyConnected", "AddMean", "AddSoftmax"):
        assert f"resolver.{method}()" in text


CORES = {
    "cortex-m0plus": [],
    "cortex-m4": ["-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"],
    "cortex-m7": ["-mfpu=fpv5-d16", "-mfloat-abi=hard"],
    "cortex-m55": ["-mfloat-abi=hard"],
}
needs_arm = pytest.mark.skipif(
    shutil.which("arm-none-eabi-g++") is None,
    reason="arm-none-eabi-gcc is not installed: "
    "apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi libstdc++-arm-none-eabi-newlib",
)


def compiled(core, source, written, folder):
    """Sizes of the sections that a source has on a core."""
    target = folder / f"{core}-{source.stem}.o"
    command = ["arm-none-eabi-g++", f"-mcpu={core}", "-mthumb", *CORES[core], "-std=c++14", "-Os"]
    command += ["-ffunction-sections", "-fdata-sections", "-fno-exceptions", "-fno-rtti"]
    command += ["-Wall", "-Wextra", "-Werror", f"-I{written}", f"-I{COMMON}"]
    subprocess.run([*command, "-c", str(source), "-o", str(target)], check=True)
    listed = subprocess.run(
        ["arm-none-eabi-size", "-A", str(target)], check=True, capture_output=True, text=True
    )
    rows = (line.split() for line in listed.stdout.splitlines() if line.startswith("."))
    return {row[0]: int(row[1]) for row in rows if int(row[1])}


@needs_arm
@pytest.mark.parametrize("core", CORES)
def test_it_compiles_and_the_sections_are_as_reported(core, written, tmp_path):
    report = json.loads((written / "report.json").read_text())
    data = compiled(core, written / "model_data.cc", written, tmp_path)
    assert data[".rodata.g_model_data"] == report["flash_bytes"]
    # Nothing of the model is copied to RAM.
    assert not any(name.startswith((".data", ".bss")) for name in data)
    arena = compiled(core, COMMON / "arena.cc", written, tmp_path)
    assert report["ram_bytes"] * 1.25 <= arena[".bss.g_arena"] < report["ram_bytes"] * 1.25 + 16
    for name in ("classify.cc", "samples.cc"):
        sizes = compiled(core, COMMON / name, written, tmp_path)
        assert sum(size for section, size in sizes.items() if section.startswith(".text")) < 1000


@needs_arm
def test_the_model_is_aligned_in_the_linked_program(written, tmp_path):
    main = tmp_path / "main.cc"
    main.write_text(
        '#include "arena.h"\n#include "model_data.h"\n'
        "int main() { return g_model_data[g_model_data_size - 1] + g_arena[0]; }\n"
    )
    program = tmp_path / "program.elf"
    command = ["arm-none-eabi-g++", "-mcpu=cortex-m4", "-mthumb", "-std=c++14", "-Os"]
    command += ["--specs=nosys.specs", f"-I{written}", f"-I{COMMON}", str(main)]
    command += [str(COMMON / "arena.cc"), str(written / "model_data.cc"), "-o", str(program)]
    subprocess.run(command, check=True, capture_output=True)
    symbols = subprocess.run(
        ["arm-none-eabi-nm", str(program)], check=True, capture_output=True, text=True
    ).stdout
    places = {
        line.split()[2]: int(line.split()[0], 16) for line in symbols.splitlines() if line[0] != " "
    }
    assert places["g_model_data"] % 16 == 0 and places["g_arena"] % 16 == 0


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler for this machine: g++")
def test_the_firmware_quantizes_as_the_interpreter_does(written, tmp_path):
    from keras_dynhp.export import litert

    main = tmp_path / "main.cc"
    main.write_text(
        "#include <cstdio>\n#include <cstring>\n"
        '#include "quantization.h"\n'
        "int main() {\n"
        "  float real;\n"
        '  while (std::scanf("%f", &real) == 1) {\n'
        "    const auto& spec = model_settings::kInputs[0];\n"
        "    const auto stored = Quantize<model_settings::InputNumber>(real, spec);\n"
        '    std::printf("%d %.9g\\n", stored, Dequantize(stored, spec));\n'
        "  }\n"
        '  std::printf("%s\\n", model_settings::kLabels[11]);\n'
        "}\n"
    )
    program = tmp_path / "program"
    command = ["g++", "-std=c++14", "-Wall", "-Wextra", "-Werror", f"-I{written}", f"-I{COMMON}"]
    subprocess.run([*command, str(main), "-o", str(program)], check=True)
    real = np.random.default_rng(0).uniform(-0.5, 1.5, 300).astype("float32")
    given = "\n".join(f"{value:.9g}" for value in real)
    done = subprocess.run([program], input=given, capture_output=True, text=True, check=True)
    *rows, label = done.stdout.splitlines()
    assert label == 'a "quoted" \\ ü'
    content = (written / "model.tflite").read_bytes()
    details = litert.make_interpreter(content).get_input_details()[0]
    stored = litert.quantize(real, details)
    assert [int(row.split()[0]) for row in rows] == stored.tolist()
    back = np.array([float(row.split()[1]) for row in rows], "float32")
    np.testing.assert_allclose(back, litert.dequantize(stored, details), rtol=1e-6)


def test_float_and_plain_arrays(command, model, tmp_path):
    with flagsaver.flagsaver(data=str(model / "data.npy"), quantize="none"):
        command.convert(str(model / "net.keras"), str(tmp_path))
    settings = (tmp_path / "model_settings.h").read_text()
    assert "using InputNumber = float;" in settings and "kLabelCount = 0" in settings


def test_bad_input(command, model, tmp_path):
    net = str(model / "net.keras")
    with pytest.raises(command.BadInputError, match="needs --data"):
        command.convert(net, str(tmp_path))
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    with (
        flagsaver.flagsaver(data=str(tmp_path / "bad.npz")),
        pytest.raises(command.BadInputError, match=r"bad\.npz cannot be read"),
    ):
        command.convert(net, str(tmp_path))
    (tmp_path / "cut.npz").write_bytes((model / "data.npz").read_bytes()[:-99])
    with (
        flagsaver.flagsaver(data=str(tmp_path / "cut.npz")),
        pytest.raises(command.BadInputError, match=r"--data=.*cut\.npz cannot be read"),
    ):
        command.convert(net, str(tmp_path))
    np.savez(tmp_path / "short.npz", x=np.zeros((5, 49, 10, 1)), y=np.zeros(3))
    with (
        flagsaver.flagsaver(data=str(tmp_path / "short.npz")),
        pytest.raises(command.BadInputError, match=r"one row for each sample.*'x': 5, 'y': 3"),
    ):
        command.convert(net, str(tmp_path))
    np.savez(tmp_path / "empty.npz", y=np.zeros(3))
    with (
        flagsaver.flagsaver(data=str(tmp_path / "empty.npz")),
        pytest.raises(command.BadInputError, match="must hold an array of inputs named x"),
    ):
        command.convert(net, str(tmp_path))
    with (
        flagsaver.flagsaver(quantize="none"),
        pytest.raises(command.BadInputError, match="no Keras model"),
    ):
        command.convert(str(tmp_path / "none.keras"), str(tmp_path))
    out = tmp_path / "out"
    with (
        flagsaver.flagsaver(data=str(model / "data.npz"), labels=["one", "two"]),
        pytest.raises(ValueError, match="12 outputs; received 2 labels"),
    ):
        command.convert(net, str(out))
    assert list(out.iterdir()) == []


def test_an_unwritable_place(command, model, tmp_path):
    (tmp_path / "file").write_text("")
    with (
        flagsaver.flagsaver(data=str(model / "data.npz")),
        pytest.raises(
            command.BadInputError, match=r"--out=.*out cannot be written .*choose another"
        ),
    ):
        command.convert(str(model / "net.keras"), str(tmp_path / "file" / "out"))


def test_the_command_line(tmp_path, run_alone):
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(tmp_path / "net.keras")
    flags = (f"--out={tmp_path / 'out'}", "--quantize=none")
    assert "| flash |" in run_alone(ROOT / "tflite" / "convert.py", tmp_path / "net.keras", *flags)
    assert (tmp_path / "out" / "model_data.cc").exists()


def test_bad_input_ends_with_one_line(command, model, tmp_path):
    flag = flagsaver.flagsaver(out=str(tmp_path), data=str(tmp_path / "none.npz"))
    with flag, pytest.raises(SystemExit, match=r"tflite/convert\.py: --data=.* cannot be read"):
        command.main(["convert.py", str(model / "net.keras")])
