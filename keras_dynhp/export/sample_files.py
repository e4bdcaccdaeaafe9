"""Samples in files, .npy and .npz: what the command lines read."""

from __future__ import annotations

import zipfile
import zlib

import keras
import numpy as np
import tensorflow as tf

from keras_dynhp.export.structures import input_names

# What NumPy raises for files that are cut short, empty or of another kind.
UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)


def load_samples(path: str, model: keras.Model):
    """Inputs of a model, an array or arrays by input name, and labels or None.

    Args:
        path: an .npy file of the inputs; or an .npz file with the array `x`, or an array for each
            input by its name, and `y` where there are labels.
        model: what the inputs are for.

    Raises:
        ValueError: that names the file, if it can't be read or doesn't hold that.
    """
    try:
        stored = np.load(path, allow_pickle=False)
        if not isinstance(stored, np.ndarray):
            with stored as archive:
                stored = {name: archive[name] for name in archive.files}
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as an .npy or .npz file: {error}") from error
    arrays = {"x": stored} if isinstance(stored, np.ndarray) else stored
    names = input_names(model)
    found = _chosen(path, arrays, names)
    labels = None if "y" in names else arrays.get("y")
    rows = found if labels is None else {**found, "y": labels}
    counts = {name: len(values) if values.ndim else 0 for name, values in rows.items()}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        raise ValueError(
            f"{path}: every array needs one row for each sample, at least one; received {counts}."
        )
    return found if len(names) > 1 else next(iter(found.values())), labels


def batched(inputs, labels) -> np.ndarray | dict | tf.data.Dataset:
    """What `export_tflite` takes: arrays, or with labels a data set of (x, y)."""
    if labels is None:
        return inputs
    return tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(64)


def _chosen(path: str, arrays: dict, names: list[str]) -> dict[str, np.ndarray]:
    """The arrays of the inputs, by name."""
    if all(name in arrays for name in names):
        return {name: arrays[name] for name in names}
    if len(names) > 1:
        wanted = f"an array for each input of the model, named {', '.join(names)}"
    elif "x" in arrays:
        return {"x": arrays["x"]}
    else:
        wanted = f"an array of inputs named x or {names[0]}"
    held = ", ".join(arrays) or "nothing"
    raise ValueError(f"{path} must hold {wanted}. It holds {held}.")
