"""What pruning does on the device: `python -m benchmarks.device_table`.

LeNet-300-100, LeNet-5, ResNet-8 and DS-CNN, dense and by DynHP at 4 and 10 times fewer parameters,
and TFMOT with as many non-zero weights: accuracy in float and int8, flash, arena, MACs, Ethos-U55
cycles and milliseconds in LiteRT; and how far the estimates of flash and arena are from the real
ones. Trains what is not in `--models` yet, and writes device.json and device.md to `--results`.
Nothing else should run while latency is measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from absl import app, flags, logging

from benchmarks.device_runs import SUBJECTS, VARIANTS
from benchmarks.tables import made_by, markdown

ROOT = Path(__file__).resolve().parent.parent
FLAGS = flags.FLAGS
flags.DEFINE_list("networks", list(SUBJECTS), "Which networks.")
flags.DEFINE_list("variants", list(VARIANTS), "Which variants; dense is always among them.")
flags.DEFINE_integer("epochs", None, "Epochs, if not the network's own.", lower_bound=1)
flags.DEFINE_string("models", str(ROOT / "runs" / "device"), "The folder for trained networks.")
flags.DEFINE_string("results", str(ROOT / "benchmarks" / "results"), "The folder for results.")

NPU = "ethos-u55-128"
ROUNDS, REPEATS = 15, 40
TINY = "tiny"
DEVICE = ("ai-edge-litert", "tflite-micro", "ethos-u-vela", "tensorflow-model-optimization")

_TITLE = "# On the device\n\n"
_INTRODUCTION = """
Files are int8, arenas those of TensorFlow Lite Micro, cycles
those of Vela, milliseconds those of LiteRT with XNNPACK on one thread (variants taking turns, the
best of 15 medians of 40); accuracies are of the test data. TFMOT has as many weights that are not
zero as the DynHP network it is named after; it zeroes kernels of Conv2D and Dense only, and no more
than 99.9% of those. One seed.

Why goals are missed. Flash: a channel costs a bias of 4 bytes and two scales of 4 whatever its
kernel has become (XNNPACK refuses a bias without them), LiteRT wants a zero point of 8 bytes beside
every scale (equal vectors are stored once), and tensors, operators and buffers are tables whose
number pruning does not change; the second table of each network has the bytes of each. Its last
columns are the flash ratios if there were no such tables, and if there were neither scales nor zero
points (as if all channels of all tensors shared one). Tables there must be, so two files that are
written alike can't exceed the last column. Latency: a
call has a cost of its own, left out in brackets; and XNNPACK computes blocks of 16 channels here: a
1x1 convolution of 25 x 10 x 64 int8 takes 2.3 microseconds for 1 and for 16 channels, 3.9 for 17 to
32, 5.6 for 33 to 48, 7.2 for 64. Other processors have other blocks, so widths are not tuned to it.

"""


def main(argv):
    """Train what is missing, measure everything, write."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    logging.set_verbosity(logging.INFO)
    results, models = Path(FLAGS.results), Path(FLAGS.models)
    models.mkdir(parents=True, exist_ok=True)
    table = results / "device.json"
    records = json.loads(table.read_text()) if table.exists() else {}
    for network in FLAGS.networks:
        for variant in wanted_variants():
            train(network, variant, models)
    for network in FLAGS.networks:
        records[network] = measure(network, models)
        table.write_text(json.dumps(records, indent=1) + "\n")
    ordered = {network: records[network] for network in SUBJECTS if network in records}
    (results / "device.md").write_text(page(ordered))


def wanted_variants() -> list[str]:
    """The variants asked for, in their order."""
    return [name for name in VARIANTS if name == "dense" or name in FLAGS.variants]


def epochs_of(network: str) -> int:
    """How long every variant of a network is trained."""
    return FLAGS.epochs or SUBJECTS[network].epochs


def file_of(network: str, variant: str, folder: Path) -> Path:
    """Where a trained network is kept."""
    return folder / f"{network}-{variant}-{epochs_of(network)}.keras"


def train(network: str, variant: str, folder: Path) -> None:
    """A variant's file, in a process of its own, unless it is there."""
    out = file_of(network, variant, folder)
    if out.exists():
        return
    logging.info("training %s %s", network, variant)
    command = [sys.executable, "-m", "benchmarks.device_runs", network, variant]
    command += [str(epochs_of(network)), str(out)]
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{network} {variant} failed:\n{done.stderr[-4000:]}")


def measure(network: str, folder: Path) -> dict[str, dict]:
    """Every figure of every variant of a network; latencies take turns."""
    import keras
    import tensorflow as tf

    import keras_dynhp as dynhp
    from examples.datasets import DATASETS
    from keras_dynhp.costs.arena import estimate_arena
    from keras_dynhp.costs.flash import estimate_flash
    from keras_dynhp.export import litert
    from keras_dynhp.export.device import device_report

    data = DATASETS[SUBJECTS[network].dataset]()
    seen = SUBJECTS[network].samples or len(data.x_train)
    rows = np.random.default_rng(0).choice(seen, 500, replace=False)
    test = tf.data.Dataset.from_tensor_slices((data.x_test, data.y_test)).batch(500)
    records, interpreters = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for variant in wanted_variants():
            logging.info("measuring %s %s", network, variant)
            model = keras.saving.load_model(file_of(network, variant, folder), compile=False)
            path = f"{scratch}/{variant}.tflite"
            dynhp.export_tflite(model, path, "int8", data.x_train[rows])
            report = device_report(path, model, test, npu=NPU)
            records[variant] = {
                "epochs": epochs_of(network),
                "params": model.count_params(),
                "nonzero": sum(int(np.count_nonzero(w)) for w in model.get_weights()),
                "float_accuracy": report.float_accuracy,
                "int8_accuracy": report.accuracy,
                "flash": report.flash_bytes,
                "file": contents(Path(path).read_bytes()),
                "arena": report.ram_bytes,
                "macs": report.macs,
                "cycles": report.npu.cycles,
                "agreement": report.agreement.worst,
                "estimated_flash": estimate_flash(model),
                "estimated_arena": estimate_arena(model),
            }
            interpreters[variant] = litert.make_interpreter(Path(path).read_bytes(), threads=1)
        # What a call costs that has next to nothing to do.
        tiny = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        dynhp.export_tflite(
            tiny, f"{scratch}/tiny.tflite", "int8", np.linspace(-1, 1, 100)[:, None]
        )
        content = Path(f"{scratch}/tiny.tflite").read_bytes()
        interpreters[TINY] = litert.make_interpreter(content, threads=1)
        times: dict[str, list[float]] = {variant: [] for variant in interpreters}
        for _ in range(ROUNDS):
            for variant, interpreter in interpreters.items():
                times[variant].append(litert.milliseconds(interpreter, REPEATS))
    for variant, record in records.items():
        # What else runs on the machine only ever adds.
        record["milliseconds"] = min(times[variant])
        record["call_milliseconds"] = min(times[TINY])
    return records


def contents(content: bytes) -> dict[str, int]:
    """The bytes of a file by what they are: "tables" is all that is no weight and no scale."""
    from keras_dynhp.export import flatbuffer

    model = flatbuffer.read(content)
    tensors = model.subgraphs[0].tensors
    constants = {tensor.buffer: tensor for tensor in tensors if tensor.buffer}
    parts = {"kernels": 0, "biases": 0}
    for number, tensor in constants.items():
        kind = "kernels" if flatbuffer.type_name(tensor) == "int8" else "biases"
        parts[kind] += len(model.buffers[number].data)
    quantized = [tensor.quantization for tensor in tensors if tensor.quantization is not None]
    for name, vectors in (
        ("scales", [quantization.scale for quantization in quantized]),
        ("zero points", [quantization.zeroPoint for quantization in quantized]),
    ):
        parts[name] = sum(map(len, {vector.tobytes() for vector in vectors}))
    parts["tables"] = len(content) - sum(parts.values())
    return parts


def page(records: dict[str, dict]) -> str:
    """The table, and for each DynHP row whether it reaches what it must."""
    made = made_by("python -m benchmarks.device_table", *DEVICE)
    parts = [_TITLE, made, _INTRODUCTION]
    for network, variants in records.items():
        dense = variants["dense"]
        subject = SUBJECTS[network]
        of = f" ({subject.samples:,} samples)" if subject.samples else ""
        parts.append(f"## {network} on {subject.dataset}{of}, {dense['epochs']} epochs\n\n")
        if subject.round_to > 1:
            parts.append(f"DynHP's widths are multiples of {subject.round_to}.\n\n")
        header = ["", "parameters", "not zero", "float, %", "int8, %", "flash, bytes"]
        header += ["arena, bytes", "MACs", f"{NPU} cycles", "LiteRT, ms", "TFLM differs, steps"]
        header += ["flash estimated", "arena estimated"]
        parts.append(markdown(header, [_line(name, row) for name, row in variants.items()]) + "\n")
        parts.append(
            f"Of the milliseconds, {dense['call_milliseconds']:.4f} are the call's own: so long "
            "takes a network of one multiplication.\n\n"
        )
        if all("file" in row for row in variants.values()):
            names = list(dense["file"])
            header = ["of the file, bytes", *names, "flash ratio without tables"]
            header += ["flash ratio without scales and zero points"]
            lines = [_parts(name, row, dense) for name, row in variants.items()]
            parts.append(markdown(header, lines) + "\n")
        header = ["", "int8 loses, points (at most 0.3)"]
        header += ["flash ratio (at least 0.9 of the parameters')"]
        header += ["latency ratio (at least half of the MACs')"]
        lines = [
            _verdict(name, row, dense) for name, row in variants.items() if name.startswith("dynhp")
        ]
        parts.append(markdown(header, lines) + "\n")
    return "".join(parts)


def _line(name: str, row: dict) -> list[str]:
    return [
        name,
        *(f"{row[figure]:,}" for figure in ("params", "nonzero")),
        *(f"{100 * row[figure]:.2f}" for figure in ("float_accuracy", "int8_accuracy")),
        *(f"{row[figure]:,}" for figure in ("flash", "arena", "macs", "cycles")),
        f"{row['milliseconds']:.4f}",
        f"{row['agreement']:g}",
        *(f"{row[f'estimated_{name}'] / row[name] - 1:+.1%}" for name in ("flash", "arena")),
    ]


def _parts(name: str, row: dict, dense: dict) -> list[str]:
    ratios = []
    for left_out in (["tables"], ["scales", "zero points"]):
        bare, dense_bare = (
            sum(size for part, size in r["file"].items() if part not in left_out)
            for r in (row, dense)
        )
        ratios.append(f"{dense_bare / bare:.2f}")
    return [name, *(f"{size:,}" for size in row["file"].values()), *ratios]


def _verdict(name: str, row: dict, dense: dict) -> list[str]:
    lost = 100 * (row["float_accuracy"] - row["int8_accuracy"])
    params, flash, macs, time = (
        dense[figure] / row[figure] for figure in ("params", "flash", "macs", "milliseconds")
    )
    bare = (dense["milliseconds"] - dense["call_milliseconds"]) / (
        row["milliseconds"] - row["call_milliseconds"]
    )
    return [
        name,
        f"{lost:+.2f}, {_yes(lost <= 0.3)}",
        f"{flash:.2f} of {params:.2f}, {_yes(flash >= 0.9 * params)}",
        f"{time:.2f} ({bare:.2f}) of {macs:.2f}, {_yes(time >= 0.5 * macs)}",
    ]


def _yes(reached: bool) -> str:
    return "reached" if reached else "missed"


if __name__ == "__main__":
    app.run(main)
