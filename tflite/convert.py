"""From a Keras model to the files that firmware needs.

python tflite/convert.py model.keras --quantize=int8 --data=samples.npz --out=build/model

writes into the output directory: model.tflite, model_data.cc and .h (the file as a C++ array),
model_settings.h (arena, scales, zero points, shapes, labels), op_resolver.h (exactly the operators
that the model has), report.json and report.md.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
import tempfile

from absl import app, flags

_QUANTIZE = flags.DEFINE_enum(
    "quantize", "int8", ["none", "int8", "int16x8"], "Number type of the file."
)
_DATA = flags.DEFINE_string(
    "data",
    None,
    "Samples to calibrate and measure with: an .npy file of inputs, or an .npz file with the "
    "arrays x (or one array for each input, by its name) and, for accuracies, y (classes).",
)
_OUT = flags.DEFINE_string("out", None, "Directory to write into; made if there is none.")
_LABELS = flags.DEFINE_list("labels", [], "Names of the classes, in the order of the outputs.")
_NPU = flags.DEFINE_string("npu", None, "Also report this Ethos-U, such as ethos-u55-128.")
flags.mark_flag_as_required("out")


class BadInputError(Exception):
    """What the person at the command line has to mend; printed without a traceback."""


def load_data(path: str, model):
    """What `export_tflite` takes: arrays, or with labels a data set of (x, y)."""
    from keras_dynhp.export.sample_files import batched, load_samples

    try:
        return batched(*load_samples(path, model))
    except ValueError as error:
        raise BadInputError(f"--data={error}") from error


def load_model(path: str):
    """The Keras model in a file."""
    import keras

    import keras_dynhp  # noqa: F401  (registers its layers)

    try:
        return keras.saving.load_model(path, compile=False)
    except (OSError, ValueError, TypeError) as error:
        raise BadInputError(f"{path} is no Keras model that can be loaded: {error}") from error


def convert(model_path: str, out: str) -> str:
    """Write every file into a scratch directory, then move them to their places; the report."""
    from keras_dynhp.export.device import device_report
    from keras_dynhp.export.sources import generate
    from keras_dynhp.export.tflite import export_tflite

    quantize = None if _QUANTIZE.value == "none" else _QUANTIZE.value
    if quantize and not _DATA.value:
        raise BadInputError(f"--quantize={quantize} needs --data: samples to calibrate with.")
    model = load_model(model_path)
    data = load_data(_DATA.value, model) if _DATA.value else None
    folder = pathlib.Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=folder, prefix=".convert-")
    except OSError as error:
        raise BadInputError(f"--out={out} cannot be written ({error}): choose another.") from error
    with temporary as name:
        scratch = pathlib.Path(name)
        path = str(scratch / "model.tflite")
        first = export_tflite(model, path, quantize, data)
        report = device_report(path, model, data, npu=_NPU.value)
        fields = report.to_dict() | {"path": "model.tflite", "notes": first.notes + report.notes}
        content = pathlib.Path(path).read_bytes()
        texts = generate(content, report, _LABELS.value, os.path.basename(model_path))
        texts["report.json"] = json.dumps(fields, indent=2) + "\n"
        texts["report.md"] = markdown(report, fields["notes"], model_path)
        for file, text in texts.items():
            (scratch / file).write_text(text, encoding="utf-8")
        for file in ["model.tflite", *texts]:
            os.replace(scratch / file, folder / file)
    return markdown(report, fields["notes"], model_path)


def markdown(report, notes: list[str], model_path: str) -> str:
    """The report as a page."""
    rows = [row for row in report.rows() if row[0] not in ("file", "note")]
    lines = [f"# {os.path.basename(model_path)} on the device", "", "| | |", "|---|---|"]
    lines.append(f"| number type | {report.quantize or 'float32'} |")
    lines += [f"| {name} | {value} |" for name, value in rows]
    lines += ["", *(f"- {note}" for note in dict.fromkeys(notes))] if notes else []
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> None:
    """Convert the model that the command line names."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if len(argv) != 2:
        raise app.UsageError("one model file, for example: python tflite/convert.py model.keras")
    try:
        print(convert(argv[1], _OUT.value))
    except (BadInputError, ValueError, TypeError, OSError, ImportError) as error:
        sys.exit(f"tflite/convert.py: {error}")


if __name__ == "__main__":
    app.run(main)
