"""Draws the pictures of the documentation.

    python docs/make_images.py
    python examples/train_image_classifier.py --dataset=fashion_mnist --budget=12MB --out=runs/show
    python docs/make_images.py runs/show

The last is the report of that run as a browser shows it (`apt-get install chromium-driver`).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from matplotlib.figure import Figure

IMAGES = Path(__file__).parent / "images"


def schedules() -> None:
    """The fraction of the way to the target, over the progress of training."""
    from keras_dynhp.schedules import Constant, Cubic, Geometric, Linear

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    progress = np.linspace(0, 1, 401)
    for schedule in (Cubic(), Linear(), Geometric(), Constant()):
        values = [schedule(p) for p in progress]
        axes.plot(progress, values, label=type(schedule).__name__.lower())
    axes.axvspan(0, 0.1, color="0.93")
    axes.axvspan(0.5, 1, color="0.93")
    axes.text(0.05, 0.5, "dense", rotation=90, ha="center", va="center")
    axes.text(0.75, 0.5, "tuned", ha="center")
    axes.set(xlabel="progress of training", ylabel="fraction of the way", xlim=(0, 1))
    axes.legend(loc="lower right")
    figure.savefig(IMAGES / "schedules.png", dpi=110)


def rebuild() -> None:
    """A real one: the kernels of two layers, the neurons that go, and the smaller kernels."""
    import keras

    import keras_dynhp as dynhp

    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(9, name="hidden"), keras.layers.Dense(4, name="out")]
    )
    masked = dynhp.add_masks(model)
    keep = np.array([1, 1, 0, 1, 0, 0, 1, 1, 0], bool)
    next(w for w in masked.weights if w.path.endswith("mask")).assign(keep.astype("float32"))
    small = dynhp.rebuild(masked)
    before, after = ([w.numpy() for w in m.weights if len(w.shape) == 2] for m in (model, small))

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots(1, 4, width_ratios=[9, 4, keep.sum(), 4])
    names = ("hidden: columns go", "out: rows go", "hidden", "out")
    most = max(abs(kernel).max() for kernel in before)
    for panel, name, kernel in zip(axes, names, [*before, *after]):
        panel.imshow(kernel, cmap="RdBu", vmin=-most, vmax=most)
        panel.set(title=f"{name}\n{kernel.shape[0]} x {kernel.shape[1]}", xticks=[], yticks=[])
    for neuron in np.flatnonzero(~keep):
        axes[0].axvspan(neuron - 0.5, neuron + 0.5, color="black", alpha=0.65)
        axes[1].axhspan(neuron - 0.5, neuron + 0.5, color="black", alpha=0.65)
    figure.savefig(IMAGES / "rebuild.png", dpi=110)


def report(run: Path) -> None:
    """The page of a run of an example, with the device report of its file."""
    import keras
    from PIL import Image

    import keras_dynhp as dynhp
    from keras_dynhp.report.record import Report

    root = Path(__file__).parents[1]
    sys.path += [str(root / "examples"), str(root / "tests" / "report")]
    from browser import open_browser, show
    from datasets import DATASETS

    found = json.loads((run / "report.json").read_text())
    samples = DATASETS[found["flags"]["dataset"]]().x_train[:500]
    record = Report.from_dict(found["pruning"])
    with tempfile.TemporaryDirectory() as folder:
        model = keras.models.load_model(run / "model.keras")
        record.device = dynhp.export_tflite(model, f"{folder}/model.tflite", "int8", samples)
        page = Path(folder) / "report.html"
        record.to_html(page)
        with open_browser() as browser:
            browser.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
            show(browser, page, 900, height=1160)
            browser.save_screenshot(f"{folder}/report.png")
        Image.open(f"{folder}/report.png").convert("RGB").save(IMAGES / "report.png", optimize=True)


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    if sys.argv[1:]:
        report(Path(sys.argv[1]))
    else:
        schedules()
        rebuild()
