"""The commands of the command line, each a function of one path."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import warnings
from dataclasses import dataclass

import keras
import numpy as np
from absl import flags

import keras_dynhp as dynhp
from keras_dynhp.cli import FLAGS, UsageError, progress
from keras_dynhp.costs.macs import macs_if_known
from keras_dynhp.costs.walk import UnknownLength
from keras_dynhp.export.sample_files import batched, load_samples
from keras_dynhp.memory import largest_batch
from keras_dynhp.sizes import format_size, parse_size

# So many samples tell what neurons are worth; they are read some ten times over.
SAMPLES = 2048

_integer = functools.partial(flags.DEFINE_integer, flag_values=FLAGS)
_string = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
_enum = functools.partial(flags.DEFINE_enum, flag_values=FLAGS)
_integer("batch_size", 32, "inspect: the batch of the memory estimate.", lower_bound=1)
_string("budget", None, "inspect: a training-memory budget, such as 4MB.")
_string("optimizer", None, "inspect: its slots count; the model's own by default.")
flags.DEFINE_float(
    "compression", None, "prune: how many times fewer parameters.", flag_values=FLAGS
)
_integer("params", None, "prune: the most parameters.", lower_bound=1)
_integer("macs", None, "prune: the most multiply-accumulates.", lower_bound=1)
_string("flash", None, "prune: the most bytes of the int8 file, by estimate, such as 64KB.")
_string("ram", None, "prune: the most bytes of the tensor arena, by estimate, such as 24KB.")
_enum("criterion", "magnitude", ["magnitude", "taylor", "random"], "prune: which neurons go.")
_string(
    "data",
    None,
    "prune, export: an .npy file of inputs, or an .npz file with the arrays x (or one array for "
    "each input, by its name) and (optionally) y.",
)
_string("out", None, "prune, export, report: the file to write.")
_enum("quantize", None, ["int8", "int16x8"], "export: quantization.")


@dataclass
class Result:
    """What a command has to say, for people and for programs; `possible` is its exit code."""

    text: str
    data: dict
    possible: bool = True


def inspect(path: str) -> Result:
    """Channel groups, barriers, parameters, MACs and training memory of a model."""
    with _usage():
        budget = parse_size(FLAGS.budget) if FLAGS.budget else None
        optimizer = keras.optimizers.get(FLAGS.optimizer) if FLAGS.optimizer else None
    model = _load(path)
    progress(f"following the channels of {path}")
    groups = dynhp.find_groups(model)
    data = {"parameters": model.count_params(), "batch_size": FLAGS.batch_size, **groups.to_dict()}
    lines = [f"parameters       {data['parameters']:,}"]
    try:
        memory = dynhp.estimate_memory(model, FLAGS.batch_size, optimizer)
        data |= {"macs": dynhp.count_macs(model), "memory": memory.to_dict()}
        lines += [
            f"MACs             {data['macs']:,}",
            f"training memory  {format_size(memory.total)} at a batch of {FLAGS.batch_size}",
        ]
        if budget is not None:
            data["largest_batch"] = largest_batch(model, budget, optimizer)
            largest = data["largest_batch"] or "none: not even one sample fits"
            lines.append(f"largest batch    {largest} in {format_size(budget)}")
    except UnknownLength as error:
        data["unknown"] = f"{error}"
        lines.append(f"MACs, memory     unknown: {error}")
        if budget is not None:
            lines.append("largest batch    unknown, as the memory is")
    text = "\n".join([*lines, str(groups)])
    return Result(text, data, possible=data.get("largest_batch") != 0)


def prune(path: str) -> Result:
    """Prune a trained model at once and write the smaller one to --out."""
    out = _out(".keras")
    with _usage():
        target = dynhp.Target(FLAGS.compression, FLAGS.params, FLAGS.macs, FLAGS.flash, FLAGS.ram)
    model = _load(path)
    data, by = None, ""
    if FLAGS.data:
        import tensorflow as tf

        x, y = load_samples(FLAGS.data, model)
        if y is None:
            raise ValueError(f"{FLAGS.data} has no array y, which a criterion with gradients needs")
        chosen = np.random.default_rng(0).permutation(len(y))[:SAMPLES]  # x may be sorted by y
        some = keras.tree.map_structure(lambda values: values[chosen], (x, y))
        data = tf.data.Dataset.from_tensor_slices(some).batch(32)
        by = f" by {len(chosen):,} samples of {FLAGS.data}"
    progress(f"pruning {path}{by}")
    small = dynhp.prune(model, target, FLAGS.criterion, data)
    small.save(out)
    figures = {
        "parameters": [model.count_params(), small.count_params()],
    }
    if (macs := macs_if_known(model)) is not None:
        figures["macs"] = [macs, dynhp.count_macs(small)]
    lines = [f"{name:<11} {before:,} -> {after:,}" for name, (before, after) in figures.items()]
    lines.append(f"written to {out}; fine-tune it before use")
    return Result("\n".join(lines), {**figures, "out": out})


def export(path: str) -> Result:
    """Write a model as .tflite to --out, quantized with --quantize and --data."""
    out = _out(".tflite")
    model = _load(path)
    samples = batched(*load_samples(FLAGS.data, model)) if FLAGS.data else None
    progress(f"converting {path}")
    report = dynhp.export_tflite(model, out, FLAGS.quantize, samples)
    return Result(str(report), report.to_dict())


def report(path: str) -> Result:
    """Make report.html from a run's directory (its report.json), or to --out."""
    from keras_dynhp.report.record import Report

    source = path if os.path.isfile(path) else os.path.join(path, "report.json")
    if not os.path.exists(source):
        raise FileNotFoundError(f"{source} does not exist; save one with hp.report.save({path!r})")
    try:
        with open(source, encoding="utf-8") as file:
            found = json.load(file)
        found = found.get("pruning", found)  # of the examples, or of report.save
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{source} is no report.json of a run: {error}") from error
    record = Report.from_dict(found)
    out = FLAGS.out or os.path.join(os.path.dirname(source), "report.html")
    record.to_html(out)
    return Result(f"{record}\nwritten to {out}", {**record.to_dict(), "out": out})


COMMANDS = {"inspect": inspect, "prune": prune, "export": export, "report": report}


def _load(path: str) -> keras.Model:
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no model at {path}")
    with warnings.catch_warnings():
        # Of the optimizer only the kind is needed, not the state that Keras says it skips.
        warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer")
        return keras.models.load_model(path)


def _out(suffix: str) -> str:
    if not FLAGS.out or not FLAGS.out.endswith(suffix):
        raise UsageError(f"--out must name the {suffix} file to write; received {FLAGS.out!r}")
    return FLAGS.out


@contextlib.contextmanager
def _usage():
    """What is refused in here are flags: the library's words, the exit code of wrong use."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise UsageError(" ".join(f"{error}".split())) from error
