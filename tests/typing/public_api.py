"""The public API as a user types it; checked by mypy (`make lint`), not run."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

import keras_dynhp as dynhp


def train(model: keras.Model, x: np.ndarray, data: tf.data.Dataset) -> None:
    target: dynhp.Target = dynhp.Target(compression=10, flash="64KB", ram=32 * 1024)
    callback: dynhp.DynHP = dynhp.DynHP(
        budget="4MB",
        target=target,
        criterion="taylor",
        schedule=lambda progress: progress**2,
        batch_size="dynamic",
        prune_inputs=False,
        round_to=8,
    )
    plain: dynhp.PruneAndRebuild = dynhp.PruneAndRebuild(target, "magnitude", "linear", every=2)
    callbacks: list[keras.callbacks.Callback] = [callback, plain]
    model.fit(x, callbacks=callbacks)
    report: str = str(callback.report)
    print(report, callback.report.to_dict()["before"])


def by_hand(model: keras.Model, data: tf.data.Dataset, x: np.ndarray) -> None:
    groups = dynhp.find_groups(model, prune_inputs=True)
    names: list[str] = [group.name for group in groups]
    sizes: list[int] = [group.size for group in groups]
    print(names, sizes, groups.to_dict(), groups.barriers)
    masked: keras.Model = dynhp.add_masks(model)
    small: keras.Model = dynhp.rebuild(masked)
    small = dynhp.prune(small, dynhp.Target(params=1000), criterion="taylor", data=data)
    estimate: dynhp.MemoryEstimate = dynhp.estimate_memory(small, 32, "adam")
    total: int = estimate.total + estimate.weights
    macs: int = dynhp.count_macs(small)
    device: dynhp.DeviceReport = dynhp.export_tflite(small, "m.tflite", "int8", x)
    flash: int = device.flash_bytes
    print(total, macs, flash, device.ram_bytes, device.ops)
