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
SHOWN = 6  # points under the best: one method that failed would hide how the others differ


def plot_rows(records: list[dict], folder: Path, made: str = "") -> None:
    """A PNG per data set and network, one curve per method through the sizes it was asked for."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    colours = plt.get_cmap("tab20")  # there are more methods than default colours
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
                    style = {"color": colours(number), "marker": "os^vDPX"[number % 7]}
                    panel.errorbar(x, y, spread, label=known.title, capsize=2, **style)
            if not panel.has_data():
                told = {"ha": "center", "va": "center", "transform": panel.transAxes}
                panel.text(0.5, 0.5, "not measured", **told)
            panel.set(xlabel=title, xscale=scale)
            if scale == "log":
                panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                panel.xaxis.set_major_formatter(EngFormatter(sep=""))
                panel.xaxis.set_minor_formatter(NullFormatter())
            panel.grid(alpha=0.3)
        best = max(float(r["accuracy"]) for r in records if r["row"] in rows and r["accuracy"])
        panels[0].set_ylabel("test accuracy, %")
        panels[0].set_ylim(best - SHOWN, best + 0.1 * SHOWN)
        figure.suptitle(f"{dataset}, {network}")
        lines, labels = panels[0].get_legend_handles_labels()
        legend = {"loc": "outside lower center", "ncols": 4}
        figure.legend(lines, labels, **legend, title=made, title_fontsize="x-small")
        figure.set_layout_engine("constrained")
        figure.savefig(folder / f"compare-{dataset}-{network}.png", dpi=100)
        plt.close(figure)


def _points(records, rows, method, name, unit):
    for row in rows:
        x, y = values(records, row, method, name), values(records, row, method, "accuracy")
        if len(x) and len(y):
            yield x.mean() / unit, y.mean(), np.std(y, ddof=1) if len(y) > 1 else 0.0
