"""Report: what went, what stayed, and what could not be followed and why."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_dynhp.keras_state.graph import with_inner
from keras_dynhp.keras_state.learning_rate import current_rate
from keras_dynhp.keras_state.strided import picks_first
from keras_dynhp.sizes import format_size

if TYPE_CHECKING:
    from keras_dynhp.export.report import DeviceReport


@dataclass
class Report:
    """The record of a pruning run; prints as a table.

    Attributes:
        before: figures of the full network: `params`, `macs`, `neurons`, `widths` by group.
        after: the same of the network as it is now.
        epochs: one dict for each epoch: `epoch`, `widths` after it, `removed` neurons, `memory`
            (the estimate by kind, in bytes, where one was made), and everything in `logs`, where
            None stands for what was NaN or infinite.
        kept: groups that could not be pruned, with their reasons.
        barriers: layers through which channels could not be followed, with the reasons.
        missed: what the network had too much of when training ended, by resource: what it has, and
            the most that the target allows. Empty when the target was reached.
        fragile: layers of the final network that plain TensorFlow can crash on, if it is trained
            on a CPU without keras_dynhp (`keras_dynhp.keras_state.strided` says why).
        notes: what else the user should know.
        budget: the training-memory budget in bytes, None without one.
        device: what `export_tflite` returned, where you put it here; or that as a dict.
    """

    before: dict = field(default_factory=dict)
    after: dict = field(default_factory=dict)
    epochs: list[dict] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    barriers: dict[str, str] = field(default_factory=dict)
    missed: dict[str, tuple[float, float]] = field(default_factory=dict)
    fragile: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    budget: int | None = None
    device: DeviceReport | dict | None = None

    def begin(self, engine) -> None:
        """Note the full network."""
        self.before = _figures(engine)
        self.after = dict(self.before)
        self.see_kept(engine)

    def see_kept(self, engine) -> None:
        """Note what can't be pruned."""
        self.kept = {group.name: group.reason for group in engine.groups.kept}
        self.barriers = dict(engine.groups.barriers)

    def epoch(self, epoch: int, engine, logs: dict, removed: int = 0, memory=None) -> None:
        """Note an epoch: what it was told, what went at its end."""
        rate = current_rate(engine.model.optimizer)
        self.epochs.append(
            {
                "epoch": epoch,
                "widths": engine.widths(),
                "removed": removed,
                "memory": memory,
                "logs": {
                    "learning_rate": _number(rate),
                    **{name: _number(value) for name, value in logs.items()},
                },
            }
        )
        if removed:
            self.after = _figures(engine)

    def end(self, engine, missed: dict[str, tuple[float, float]]) -> None:
        """Note the final network, and what it still has too much of."""
        self.after = _figures(engine)
        self.missed = missed
        self.fragile = [layer.name for layer in with_inner(engine.model) if picks_first(layer)]

    @property
    def remarks(self) -> list[str]:
        """Sentences for the end of a page: by how much the target was missed, and the notes."""
        missed = [
            f"Target missed: {name} is {now:,.0f} where {most:,.0f} are allowed. In another `fit` "
            "the same callback goes on from here, unless `max_drop` has stopped it."
            for name, (now, most) in self.missed.items()
        ]
        fragile = [
            f"Trained on from its file without keras_dynhp, on a CPU, TensorFlow can crash on "
            f"{', '.join(self.fragile)}: set TF_ENABLE_ONEDNN_OPTS=0 there (oneDNN writes past its "
            "memory for strided kernels of size 1 with narrow inputs)."
        ]
        return missed + (fragile if self.fragile else []) + self.notes

    def to_dict(self) -> dict:
        """Plain data for programs."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict) -> Report:
        """The report that `to_dict` describes; keys it does not know are left out."""
        names = {f.name for f in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in data.items() if name in names})

    def save(self, directory: str) -> None:
        """Write `report.json` into a directory, for `keras-dynhp report`."""
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, "report.json"), "w", encoding="utf-8") as file:
            json.dump(self.to_dict(), file, indent=2)

    def plot(self):
        """A Plotly figure of widths, memory, batch size and accuracy over epochs.

        Raises:
            ValueError: before the first epoch of a `fit`.
            ImportError: without plotly (`pip install "keras-dynhp[report]"`).
        """
        from keras_dynhp.report.figures import draw

        return draw(self)

    def to_html(self, path: str) -> None:
        """Write one self-contained page that needs no network.

        Raises:
            ImportError: without plotly (`pip install "keras-dynhp[report]"`).
        """
        from keras_dynhp.report.page import write_page

        write_page(self, path)

    def __str__(self) -> str:
        if not self.before:
            return "Nothing to report: no training has begun."
        before, after = self.before, self.after
        lines = [
            f"parameters {before['params']:,} -> {after['params']:,} "
            f"({before['params'] / max(after['params'], 1):.1f}x fewer)",
            _macs_line(before.get("macs"), after.get("macs")),
            f"neurons    {before['neurons']:,} -> {after['neurons']:,}",
        ]
        if self.epochs and "train_memory" in self.epochs[0]["logs"]:
            first, last = (self.epochs[i]["logs"] for i in (0, -1))
            lines += [
                f"memory     {format_size(first['train_memory'])} -> "
                f"{format_size(last['train_memory'])} for training",
                f"batch      {first['batch_size']:.0f} -> {last['batch_size']:.0f}",
            ]
        lines.append("groups:")
        for name, width in before["widths"].items():
            lines.append(f"  {name:<28} {width:>5} -> {after['widths'].get(name, 1)}")
        if self.kept:
            lines.append("kept whole:")
            lines += [f"  {name:<28} {reason}" for name, reason in self.kept.items()]
        if self.barriers:
            lines.append("barriers:")
            lines += [f"  {name:<28} {reason}" for name, reason in self.barriers.items()]
        return "\n".join(lines + self.remarks)

    __repr__ = __str__


def _number(value) -> float | None:
    """What a metric says; of one that says a value for each class, the mean.

    None where that is not finite: JSON has no word for NaN, and strict readers refuse the file.
    """
    # Not in bfloat16, which NumPy does not know and Keras, as `floatx`, puts plain numbers into.
    if keras.ops.is_tensor(value) or isinstance(value, keras.Variable):
        value = keras.ops.convert_to_numpy(keras.ops.cast(value, "float64"))
    number = float(np.mean(np.asarray(value, np.float64)))
    return number if math.isfinite(number) else None


def _figures(engine) -> dict:
    from keras_dynhp.costs.macs import macs_if_known

    macs = macs_if_known(engine.model)
    return {
        "params": engine.model.count_params(),
        **({} if macs is None else {"macs": macs}),
        "neurons": engine.neurons,
        "widths": engine.widths(),
    }


def _macs_line(before: int | None, after: int | None) -> str:
    if before is None or after is None:
        return "MACs       as many as an input of unknown length makes"
    return f"MACs       {before:,} -> {after:,} ({before / max(after, 1):.1f}x fewer)"
