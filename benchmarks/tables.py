"""Markdown tables of runs: means over seeds, and the spread."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from importlib import metadata

import numpy as np

from benchmarks.methods import METHODS
from benchmarks.workloads import WORKLOADS

MB = 2**20


def made_by(command: str, *packages: str) -> str:
    """What made a table: a command, with which versions, and on how many cores."""
    versions = [f"Python {platform.python_version()}"]
    for name in ("tensorflow", "keras", *packages):
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return f"Made by `{command}`: {', '.join(versions)}, {os.cpu_count()} cores.\n"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def by_variant(
    records: list[dict], rows: list[str], titles: dict[str, str], cell: Callable[[list[dict]], str]
) -> str:
    """A line for each variant of which there are runs, a column for each row."""
    rows = [row for row in rows if any(r["row"] == row for r in records)]
    lines = []
    for name, title in titles.items():
        mine = [r for r in records if r["variant"] == name]
        found = [[r for r in mine if r["row"] == row] for row in rows]
        if mine:
            lines.append([title, *(cell(runs) if runs else "" for runs in found)])
    return markdown(["part", *rows], lines)


def is_whole(record: dict, split: str, epochs: int | None = None) -> bool:
    """Whether a run is one of the comparison: the row's own batch and epochs, no cap."""
    workload = WORKLOADS[record["row"]]
    return (
        record["split"] == split
        and record["epochs"] == (epochs or workload.epochs)
        and record["batch_size"] == workload.batch_size
        and record["cap_mb"] is None
    )


def values(records: list[dict], row: str, method: str, figure: str) -> np.ndarray:
    """A figure of every run of a method on a row, by seed; runs without it are left out."""
    mine = [r for r in records if r["row"] == row and r["method"] == method]
    ordered = sorted(mine, key=lambda r: r["seed"])
    return np.array([r[figure] for r in ordered if r[figure] is not None], float)


def written(numbers: np.ndarray, form: str, unit: float = 1.0) -> str:
    """Mean, with the standard deviation where there are several; a dash where there is none."""
    if not len(numbers):
        return "-"
    text = form.format(numbers.mean() / unit)
    if len(numbers) > 1:
        text += f" ± {form.format(numbers.std(ddof=1) / unit)}"
    return text


def share(records: list[dict], row: str, method: str, figure: str) -> float | None:
    """A figure as a share of that of the dense network in the same framework, medians."""
    mine = values(records, row, method, figure)
    dense = values(records, row, METHODS[method].dense, figure)
    return float(np.median(mine) / np.median(dense)) if len(mine) and len(dense) else None


def comparison(records: list[dict]) -> str:
    """One table per row, a line per method."""
    parts = []
    for row, workload in WORKLOADS.items():
        here = [r for r in records if r["row"] == row]
        if not here:
            continue
        reached = _reached(here, row)
        parts.append(f"## {workload.goal}\n\nDynHP must reach {workload.must}{reached}.\n\n")
        lines = [_line(here, row, name) for name in METHODS if _has(here, name)]
        parts.append(markdown([title for title, _ in _CELLS], lines) + "\n")
    return "".join(parts)


def _reached(records: list[dict], row: str) -> str:
    """What it did reach, in words; nothing where that can't be told yet."""
    ours, dense = (values(records, row, method, "accuracy") for method in ("dynhp", "dense"))
    workload = WORKLOADS[row]
    if not len(ours) or (workload.at_least is None and not len(dense)):
        return ""
    least = dense.mean() - workload.within if workload.at_least is None else workload.at_least
    # As exact as the table: numbers of a test set are sums of thousandths.
    short = round(least - ours.mean(), 2)
    return f": {ours.mean():.2f}, " + ("reached" if short <= 0 else f"**{short:.2f} short**")


def _has(records: list[dict], method: str) -> bool:
    return any(r["method"] == method for r in records)


def _line(records: list[dict], row: str, method: str) -> list[str]:
    return [cell(records, row, method) for _, cell in _CELLS]


def _figure(name: str, form: str, unit: float = 1.0) -> Callable[..., str]:
    return lambda records, row, method: written(values(records, row, method, name), form, unit)


def _share(name: str) -> Callable[..., str]:
    def cell(records, row, method):
        part = share(records, row, method, name)
        return "-" if part is None else f"{part:.2f}"

    return cell


_CELLS: list[tuple[str, Callable[..., str]]] = [
    ("method", lambda records, row, method: METHODS[method].title),
    ("runs", lambda *where: str(len(values(*where, "accuracy")))),
    ("test accuracy, %", _figure("accuracy", "{:.2f}")),
    ("parameters", lambda *where: _mean(*where, "params")),
    ("not zero", lambda *where: _mean(*where, "nonzero")),
    ("MACs", lambda *where: _mean(*where, "macs")),
    ("int8 file, bytes", lambda *where: _mean(*where, "int8_bytes")),
    ("peak memory, MB", _figure("peak_memory", "{:.1f}", MB)),
    ("last epoch, MB", _figure("last_memory", "{:.1f}", MB)),
    ("mean memory / dense", _share("mean_memory")),
    ("last batch", lambda *where: _mean(*where, "last_batch_size")),
    ("seconds", _figure("seconds", "{:.0f}")),
    ("time / dense", _share("seconds")),
]


def _mean(records, row, method, name) -> str:
    numbers = values(records, row, method, name)
    return f"{numbers.mean():,.0f}" if len(numbers) else "-"
