"""Plots of a comparison: test accuracy against parameters, MACs, memory and time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.methods import METHODS
from benchmarks.tables import MB, values
from benchmarks.workloads import WORKLOADS

AXES = (
    ("nonzero", "parameters that are not zero", 1, "log"),
    ("macs", "multiply-accumulates", 1, "log"),
    ("mean_memory", "training memory, mean of epochs' peaks, MB", MB, "linear"),
    ("seconds", "training time, s", 1, "linear"),
)


def plot_rows(records: list[dict], folder: Path, made: str = "") -> None:
    """A PNG per data set and network, one curve per method through the sizes it was asked for."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    families: dict[tuple[str, str], list[str]] = {}
    for row, workload in WORKLOADS.items():
        if any(record["row"] == row for record in records):
            inputs = "-inputs" if workload.prune_inputs else ""
            families.setdefault((workload.dataset, workload.network + inputs), []).append(row)
    for (dataset, network), rows in families.items():
        figure, panels = plt.subplots(1, len(AXES), figsize=(18, 4.2), sharey=True)
        for panel, (name, title, unit, scale) in zip(panels, AXES):
            for number, (method, known) in enumerate(METHODS.items()):
                points = sorted(_points(records, rows, method, name, unit))
                if points:
                    x, y, spread = zip(*points)
                    style = {"color": f"C{number}", "marker": "os^vDPX"[number % 7]}
                    panel.errorbar(x, y, spread, label=known.title, capsize=2, **style)
            panel.set(xlabel=title, xscale=scale)
            panel.grid(alpha=0.3)
        panels[0].set_ylabel("test accuracy, %")
        figure.suptitle(f"{dataset}, {network}")
        figure.supxlabel(made, fontsize="x-small")
        lines, labels = panels[0].get_legend_handles_labels()
        figure.legend(lines, labels, loc="outside lower center", ncols=5)
        figure.set_layout_engine("constrained")
        figure.savefig(folder / f"compare-{dataset}-{network}.png", dpi=100)
        plt.close(figure)


def _points(records, rows, method, name, unit):
    for row in rows:
        x, y = values(records, row, method, name), values(records, row, method, "accuracy")
        if len(x) and len(y):
            yield x.mean() / unit, y.mean(), np.std(y, ddof=1) if len(y) > 1 else 0.0
