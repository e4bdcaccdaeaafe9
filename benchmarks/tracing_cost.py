"""What following channels costs: NASNetLarge, and residual blocks stacked ever deeper and wider.

Seconds are those of the processor, so that other programs don't count.

    python -m benchmarks.tracing_cost

Writes benchmarks/results/tracing_cost.csv and .png (the plot needs matplotlib).
"""

from __future__ import annotations

import csv
import pathlib
import time
import timeit

import keras
import numpy as np
from keras import layers as L

import keras_dynhp as dynhp
from benchmarks.tables import made_by
from keras_dynhp.graph.groups import ChannelGroups
from keras_dynhp.rebuild.plan import plan_rebuild

RESULTS = pathlib.Path(__file__).parent / "results"
COLUMNS = ["model", "operations", "channels", "groups", "seconds"]


def stacked(blocks: int, width: int) -> keras.Model:
    """Residual blocks with batch normalization."""
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(width, 3, padding="same")(inputs)
    for _ in range(blocks):
        y = L.ReLU()(L.BatchNormalization()(L.Conv2D(width, 3, padding="same")(x)))
        y = L.BatchNormalization()(L.Conv2D(width, 3, padding="same")(y))
        x = L.ReLU()(L.Add()([x, y]))
    return keras.Model(inputs, L.Dense(10)(L.GlobalAveragePooling2D()(x)))


def measure(name: str, model: keras.Model, repeats: int = 3) -> dict:
    """The shortest of a few tracings and plannings in which half of every group goes."""

    def follow() -> ChannelGroups:
        groups = dynhp.find_groups(model)
        keep = {group.name: np.arange(group.size) % 2 == 0 for group in groups}
        plan_rebuild(groups, groups.survivors(keep))
        return groups

    groups = follow()
    seconds = timeit.repeat(follow, timer=time.process_time, number=1, repeat=repeats)
    return {
        "model": name,
        "operations": len(model.operations),
        "channels": groups.trace.units.count,
        "groups": len(groups),
        "seconds": round(min(seconds), 4),
    }


def plot(rows: list[dict], path: pathlib.Path) -> None:
    """Seconds over operations and over channels, beside a straight line through the origin."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        print('no plot: pip install "keras-dynhp[examples]"')
        return
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for panel, key, kind in zip(panels, ("operations", "channels"), ("deeper", "wider")):
        chosen = [row for row in rows if row["model"].startswith(kind)]
        x = np.array([row[key] for row in chosen])
        y = np.array([row["seconds"] for row in chosen])
        panel.plot(x, y, "o-", label="measured")
        panel.plot(x, x * (y[-1] / x[-1]), "--", color="grey", label="linear")
        panel.set(xlabel=key, ylabel="seconds", title=f"{kind} stacks of residual blocks")
        panel.legend()
    figure.supxlabel(made_by("python -m benchmarks.tracing_cost").strip(), fontsize="x-small")
    figure.savefig(path, dpi=120)


def main() -> None:
    rows = []
    for blocks in (10, 20, 40, 80, 160):
        rows.append(measure(f"deeper: {blocks} blocks of 16", stacked(blocks, 16)))
        print(rows[-1], flush=True)
    for width in (32, 64, 128, 256, 512):
        rows.append(measure(f"wider: 4 blocks of {width}", stacked(4, width)))
        print(rows[-1], flush=True)
    model = keras.applications.NASNetLarge(weights=None, input_shape=(331, 331, 3))
    rows.append(measure("NASNetLarge", model, repeats=1))
    print(rows[-1], flush=True)
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "tracing_cost.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    plot(rows, RESULTS / "tracing_cost.png")


if __name__ == "__main__":
    main()
