"""Every model of keras.applications: what can be pruned, and is the pruned model right?

    python -m benchmarks.applications [NAME ...]

Every constructor, with and without its top, at the smallest input it allows, with random weights:
half of every group is masked at random, the model rebuilt, and both compared, in float64 and in
float32 (the largest difference, relative to the largest output). The deepest random networks are
chaotic: EfficientNetV2L makes 1e-5 of a rounding of 1e-16, which would hide mistakes. In those the
last normalization of every residual branch is scaled to a tenth, as training often begins. Models
with their top, which are the only ones in float32, are saved and loaded, and must then compute the
same bits; those of up to 8 million parameters when rebuilt are exported to int8. Seconds are those
of the processor. Writes the table to benchmarks/results/applications.csv and .md, and what a
reader asks first into the README; models that are in it already are skipped, so the command can
be interrupted. Delete the table to start again.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import csv
import gc
import inspect
import pathlib
import tempfile
import time
import warnings

import keras

import keras_dynhp as dynhp
from benchmarks.exactness import (
    amplification,
    calibrate,
    damp,
    difference,
    finalize,
    outputs_of,
    random_inputs,
    random_masks,
    randomize,
    spread,
)
from benchmarks.tables import made_by
from keras_dynhp.graph.survivors import Survivors
from keras_dynhp.rebuild.plan import plan_rebuild

CHAOTIC = 1e6  # times rounding: nothing of float32 would be left
EXPORTED = 8_000_000  # rebuilt models with fewer parameters are exported
RESULTS = pathlib.Path(__file__).parent / "results"
README = pathlib.Path(__file__).parents[1] / "README.md"
START, END = "<!-- written by benchmarks.applications -->", "<!-- end -->"
COLUMNS = [
    "model",
    "top",
    "input",
    "operations",
    "groups",
    "neurons",
    "prunable_share",
    "parameters",
    "parameters_half_masked",
    "error_float64",
    "error_float32",
    "trace_and_plan_seconds",
    "rebuild_seconds",
    "saved_and_loaded",
    "int8_bytes",
    "barriers",
]


def constructors() -> dict[str, object]:
    """Every function of keras.applications that makes a model."""
    return {
        name: function
        for name, function in vars(keras.applications).items()
        if name[0].isupper() and inspect.isfunction(function)
    }


def smallest_input(name: str) -> int:
    """The smallest side of a picture that the model takes."""
    return 75 if name.startswith("Inception") else 71 if name == "Xception" else 32


def build(name: str, top: bool = True) -> keras.Model:
    """A model with ten classes and no softmax: a saturated one would hide differences."""
    side = smallest_input(name)
    extra = {"classes": 10, "classifier_activation": None} if top else {}
    return constructors()[name](weights=None, include_top=top, input_shape=(side, side, 3), **extra)


def measure(name: str, top: bool) -> dict:
    """One row of the table."""
    keras.backend.clear_session()
    if top:
        return _measure(name, top)
    with in_float64():
        return _measure(name, top)


def _measure(name: str, top: bool) -> dict:
    keras.utils.set_random_seed(0)
    model = build(name, top)
    inputs = random_inputs(model, batch=8)  # batch statistics of fewer amplify rounding
    start = time.process_time()
    groups = dynhp.find_groups(model)
    plan_rebuild(groups, Survivors(groups.survivors({}).alive))
    traced = time.process_time() - start
    masked = dynhp.add_masks(model)
    randomize(masked, gain=3.0)
    random_masks(masked)
    calibrate(masked, inputs)
    if amplification(masked, inputs) > CHAOTIC:
        damp(masked)
        calibrate(masked, inputs)
    start = time.process_time()
    small = dynhp.rebuild(masked)
    rebuilt = time.process_time() - start
    outputs = outputs_of(masked, inputs)
    if spread(outputs) < 0.001:
        raise ValueError(f"The outputs of {name} hardly depend on the data: nothing is compared.")
    error = difference(outputs, outputs_of(small, inputs))
    exact = error_in_float64(name, top, masked, inputs) if top else error
    reasons = collections.Counter(groups.barriers.values())
    return {
        "model": name,
        "top": "yes" if top else "no",
        "input": smallest_input(name),
        "operations": len(model.operations),
        "groups": len(groups),
        "neurons": groups.neurons,
        "prunable_share": round(groups.prunable_share, 4),
        "parameters": model.count_params(),
        "parameters_half_masked": small.count_params(),
        "error_float64": f"{exact:.1e}",
        "error_float32": f"{error:.1e}" if top else "",
        "trace_and_plan_seconds": round(traced, 2),
        "rebuild_seconds": round(rebuilt, 2),
        "saved_and_loaded": _survives(small, inputs) if top else "",
        "int8_bytes": int8_bytes(small) if top and small.count_params() < EXPORTED else "",
        "barriers": "; ".join(f"{count}x {reason}" for reason, count in reasons.items()) or "none",
    }


@contextlib.contextmanager
def in_float64():
    """Models made meanwhile compute in float64."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])


def error_in_float64(name: str, top: bool, masked: keras.Model, inputs) -> float:
    """The error of the same model, weights and masks where rounding can't hide a mistake.

    A hundred random layers with batch normalization amplify float32's rounding a thousandfold.
    """
    with in_float64():
        twin = dynhp.add_masks(build(name, top))
        for variable, value in zip(twin.weights, masked.weights, strict=True):
            variable.assign(value)
        finalize(twin)
        small = dynhp.rebuild(twin)
        return difference(outputs_of(twin, inputs), outputs_of(small, inputs))


def _survives(model: keras.Model, inputs) -> str:
    """Whether a model computes the same bits when it comes back from a .keras file."""
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model.keras")
        again = keras.models.load_model(f"{folder}/model.keras")
    same = difference(outputs_of(model, inputs), outputs_of(again, inputs)) == 0.0
    return "same" if same else "differs"


def int8_bytes(model: keras.Model) -> int:
    """The size of the int8 file, which TensorFlow Lite Micro has run where it is installed."""
    from keras_dynhp.export.tflite import export_tflite

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # eight random samples: only the size counts
        report = export_tflite(
            model,
            f"{folder}/model.tflite",
            quantize="int8",
            representative_data=random_inputs(model, batch=8),
        )
    return report.flash_bytes


def read(path: pathlib.Path) -> list[dict]:
    """The rows written so far."""
    return list(csv.DictReader(path.open())) if path.exists() else []


def write_page(rows: list[dict], path: pathlib.Path) -> None:
    """What a reader asks first of every model with its top, and all figures below."""
    rows = sorted(rows, key=lambda row: (row["model"], row["top"] == "no"))
    short = [
        [
            row["model"],
            row["groups"],
            f"{float(row['prunable_share']):.1%}",
            f"{int(row['parameters']) / 1e6:.1f} M",
            f"{int(row['parameters_half_masked']) / 1e6:.1f} M",
            row["error_float64"],
            f"{int(row['int8_bytes']) / 2**20:.1f} MB" if row["int8_bytes"] else "",
            row["barriers"],
        ]
        for row in rows
        if row["top"] == "yes"
    ]
    titles = [
        "model",
        "groups",
        "prunable",
        "parameters",
        "half masked",
        "error",
        "int8",
        "barriers",
    ]
    lines = [
        "# keras.applications",
        "",
        made_by("python -m benchmarks.applications") + "Its first lines say how. *Prunable*:",
        "the share of the parameters that lie in prunable groups. *Half masked*: the parameters",
        "left when a random half of every group has gone. *Error*: the largest difference between",
        "the rebuilt and the masked model, relative to the largest output, in float64.",
        "",
        *_table(titles, short),
        "",
        "## All figures",
        "",
        *_table(
            [c.replace("_", " ") for c in COLUMNS], [[row[c] for c in COLUMNS] for row in rows]
        ),
    ]
    path.write_text("\n".join(lines) + "\n")


def readme_block(rows: list[dict]) -> str:
    """The README's table: a line per constructor, with and without its top where they differ."""
    models = collections.defaultdict(dict)
    for row in sorted(rows, key=lambda row: (row["model"], row["top"] == "no")):
        models[row["model"]][row["top"]] = row
    lines = []
    for name, both in models.items():
        groups = [row["groups"] for row in both.values()]
        shares = [f"{float(row['prunable_share']):.1%}" for row in both.values()]
        barriers = [row["barriers"] for row in both.values()]
        cells = (" / ".join(dict.fromkeys(cell)) for cell in (groups, shares, barriers))
        lines.append([name, *cells])
    whole = sum(all(row["barriers"] == "none" for row in both.values()) for both in models.values())
    least = min(float(row["prunable_share"]) for row in rows)
    titles = ["model", "groups", "prunable share of the parameters", "barriers and reasons"]
    return "\n".join(
        [
            START,
            "<details>",
            f"<summary>{len(models)} of the {len(constructors())} models of "
            f"<code>keras.applications</code>: at least {least:.1%} of the parameters can be "
            f"pruned, {whole} without any barrier</summary>",
            "",
            "`python -m benchmarks.applications` writes this table. Where a model differs with and "
            "without its top, both are given.",
            "",
            *_table(titles, lines),
            "",
            "</details>",
            END,
        ]
    )


def write_readme(rows: list[dict], path: pathlib.Path = README) -> None:
    """Put the table in the place of the one that stands between the markers."""
    before, rest = path.read_text(encoding="utf-8").split(START)
    after = rest.split(END, 1)[1]
    path.write_text(before + readme_block(rows) + after, encoding="utf-8")


def _table(titles: list[str], rows: list[list]) -> list[str]:
    lines = [titles, ["---"] * len(titles), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="constructors; all of them if none is named")
    names = parser.parse_args().names or sorted(constructors())
    RESULTS.mkdir(exist_ok=True)
    table = RESULTS / "applications.csv"
    rows = read(table)
    for name in names:
        for top in (True, False):
            if any(row["model"] == name and row["top"] == ("no", "yes")[top] for row in rows):
                continue
            row = measure(name, top)
            print(row, flush=True)
            rows.append({key: str(value) for key, value in row.items()})
            with table.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(rows)
            write_page(rows, RESULTS / "applications.md")
            write_readme(rows)
            gc.collect()
    write_page(rows, RESULTS / "applications.md")  # also where there was nothing left to measure
    write_readme(rows)


if __name__ == "__main__":
    main()
