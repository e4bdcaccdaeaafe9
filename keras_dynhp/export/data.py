"""Samples for calibration and for measuring: whatever `fit` takes in, checked arrays out."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from keras_dynhp.export.structures import output_names, per_input, per_output

# Fewer than this rarely show the converter the range that activations take (its own guide asks
# for "a few hundred" samples).
ENOUGH_SAMPLES = 100
# What one export reads of a data set: enough to calibrate and for a first accuracy.
MOST_SAMPLES = 1000

_NO_LABELS_OF_OUTPUTS = object()


@dataclass(frozen=True)
class Samples:
    """Samples of every model input, the first axis counting them, and labels where given.

    `labels` has for each output an array or None; `notes` says what could not be used.
    """

    inputs: list[np.ndarray]
    labels: list[np.ndarray | None] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.inputs[0])

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shape of one sample for every input."""
        return [values.shape[1:] for values in self.inputs]

    def at(self, index: int) -> list[np.ndarray]:
        """The sample `index` as a batch of one for every input."""
        return [values[index : index + 1] for values in self.inputs]

    def first(self, count: int) -> Samples:
        """The first `count` samples."""
        labels = self.labels and [y if y is None else y[:count] for y in self.labels]
        return Samples([values[:count] for values in self.inputs], labels, self.notes)


def read_samples(model: keras.Model, data, most: int | None = MOST_SAMPLES) -> Samples:
    """Samples from whatever `model.fit` takes as its x.

    Args:
        model: what the samples are for; its inputs fix shapes and dtypes.
        data: an array; a list, tuple or dict of arrays for several inputs, a dict by the keys that
            the model was made with or the names of its inputs; or a `tf.data.Dataset` (batched or
            not), a `keras.utils.PyDataset` or a generator of such things or of `(x, y)` or
            `(x, y, weight)`. y may be a tuple, list or dict for several outputs.
        most: how many samples are read; None reads all.

    Raises:
        TypeError: for anything else.
        ValueError: for no samples, wrong shapes, values that are not finite, or no end.
    """
    elements = _elements(model, data, most)
    if elements is None:
        inputs, labels = [np.asarray(x) for x in per_input(model, data)], None
    else:
        inputs, labels = _collected(model, elements, most)
    inputs = [
        _checked(values, tensor, number)
        for number, (values, tensor) in enumerate(zip(inputs, model.inputs))
    ]
    counts = {len(values) for values in inputs}
    if len(counts) != 1 or counts == {0}:
        raise ValueError(
            "every input needs the same number of samples, at least one; received "
            f"{[len(values) for values in inputs]}."
        )
    notes: tuple[str, ...] = ()
    if labels is _NO_LABELS_OF_OUTPUTS:
        notes = (
            f"the labels fit none of the outputs {output_names(model)}: no accuracy was computed",
        )
        labels = None
    for y in labels or ():
        if y is not None and len(y) != len(inputs[0]):
            raise ValueError(f"received {len(inputs[0])} samples but {len(y)} labels.")
    samples = Samples(inputs, labels, notes)
    return samples if most is None else samples.first(most)


def warn_about(samples: Samples) -> list[str]:
    """Warn of what makes a calibration doubtful; the same sentences are returned."""
    doubts = []
    if len(samples) < ENOUGH_SAMPLES:
        doubts.append(
            f"representative_data has {len(samples)} samples: ranges calibrated on fewer than "
            f"{ENOUGH_SAMPLES} rarely hold for data not seen. Give a few hundred real ones."
        )
    for number, values in enumerate(samples.inputs):
        doubts.extend(_outliers(values, number))
    for doubt in doubts:
        warnings.warn(doubt, UserWarning, stacklevel=3)
    return doubts


def _outliers(values: np.ndarray, number: int) -> list[str]:
    """A few samples far outside the range of the rest waste most of the 256 steps."""
    if not np.issubdtype(values.dtype, np.floating) or len(values) < 20:
        return []
    flat = values.reshape(len(values), -1)
    low, high = flat.min(axis=1), flat.max(axis=1)
    usual_low, usual_high = np.percentile(low, 5), np.percentile(high, 95)
    usual, whole = float(usual_high - usual_low), float(high.max() - low.min())
    if usual <= 0 or whole <= 4 * usual:
        return []
    margin = usual
    outside = int(((low < usual_low - margin) | (high > usual_high + margin)).sum())
    return [
        f"{outside} of {len(values)} samples of input {number} reach outside the range of the "
        f"others: {low.min():.6g} to {high.max():.6g}, where 9 in 10 stay within {usual_low:.6g} "
        f"to {usual_high:.6g}. They make the input's quantization step "
        f"{whole / usual:.1f} times coarser. Are all samples scaled alike?"
    ]


def _elements(model: keras.Model, data, most: int | None) -> Iterator | None:
    """The elements of what comes in batches; None for arrays."""
    if isinstance(data, tf.data.Dataset):
        if most is None and data.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError("the data set has no end: give data.take(...) with as much as needed.")
        if _is_unbatched(model, data.element_spec):
            data = data.batch(64)
        return data.as_numpy_iterator()
    if isinstance(data, keras.utils.PyDataset):
        if data.num_batches is None and most is None:
            raise ValueError("the PyDataset has no end (num_batches is None): give one that has.")
        count = itertools.count() if data.num_batches is None else range(data.num_batches)
        return (data[index] for index in count)
    if hasattr(data, "__next__"):
        if most is None:
            raise ValueError("a generator may have no end: give arrays or a tf.data.Dataset.")
        return iter(data)
    return None


def _split(model: keras.Model, element) -> tuple:
    """x and y of an element of a data set, as `fit` splits it; y is None where there is none."""
    if not isinstance(element, tuple):
        return element, None
    if len(model.inputs) > 1 and hasattr(element[0], "shape"):
        return element, None  # one array for each input
    if len(element) > 3:
        raise ValueError(
            f"elements of the data are x, (x, y) or (x, y, weight); received {len(element)} parts."
        )
    return element[0], element[1] if len(element) > 1 else None


def _is_unbatched(model: keras.Model, spec) -> bool:
    """Whether every element of a data set is one sample."""
    shape = per_input(model, _split(model, spec)[0])[0].shape
    wanted = model.inputs[0].shape[1:]
    if shape.rank is None:
        return False
    single = shape.rank == len(wanted) and shape.is_compatible_with(wanted)
    # `fit` takes images without their one channel, too.
    without = wanted[-1:] == (1,) and shape.is_compatible_with(wanted[:-1])
    return bool(single or without or shape.rank < len(wanted))


def _collected(model: keras.Model, elements, most: int | None):
    """Samples of the first elements: an array for each input, and labels for each output."""
    parts: list[list[np.ndarray]] = []
    labels: list[list] | object = []
    read = 0
    for element in elements:
        x, y = _split(model, element)
        parts.append([np.asarray(values) for values in per_input(model, x)])
        these = None if y is None else per_output(model, y)
        if y is not None and these is None:
            labels = _NO_LABELS_OF_OUTPUTS
        if these is not None and isinstance(labels, list):
            labels.append(these)
        read += len(parts[-1][0]) if parts[-1][0].ndim else 0
        if most is not None and read >= most:
            break
    if not parts:
        raise ValueError("the data set of representative data is empty.")
    inputs = [np.concatenate(column) for column in zip(*parts)]
    if not isinstance(labels, list):
        return inputs, labels
    columns = [
        None if any(y is None for y in column) else np.concatenate([np.asarray(y) for y in column])
        for column in zip(*labels)
    ]
    return inputs, columns or None


def _checked(values: np.ndarray, tensor, number: int) -> np.ndarray:
    if not (np.issubdtype(values.dtype, np.number) or values.dtype == bool):
        raise TypeError(
            f"samples of input {number} have dtype {values.dtype}, which holds no numbers."
        )
    wanted = tuple(tensor.shape[1:])
    if values.ndim == len(wanted) and wanted[-1:] == (1,):
        values = values[..., np.newaxis]  # as `fit` does
    elif values.ndim == len(wanted) + 2 and values.shape[-1] == 1:
        values = values[..., 0]
    if len(values.shape) != len(wanted) + 1 or any(
        n is not None and n != got for n, got in zip(wanted, values.shape[1:])
    ):
        raise ValueError(
            f"samples of input {number} ({tensor.name!r}) need the shape (samples, "
            f"{', '.join(map(str, wanted))}); received {values.shape}."
        )
    if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
        bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        raise ValueError(
            f"{int(bad.sum())} of {len(values)} samples of input {number} ({tensor.name!r}) have "
            f"values that are NaN or infinite, the first of them sample {int(bad.argmax())}. "
            "Clean the data before exporting."
        )
    return values.astype(tensor.dtype if "float" not in tensor.dtype else "float32", copy=False)
