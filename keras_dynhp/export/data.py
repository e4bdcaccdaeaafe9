"""Samples for calibration and for measuring: NumPy or tf.data in, checked arrays out."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

# Fewer than this rarely show the converter the range that activations take (its own guide asks
# for "a few hundred" samples).
ENOUGH_SAMPLES = 100
# What one export reads of a data set: enough to calibrate and for a first accuracy.
MOST_SAMPLES = 1000


@dataclass(frozen=True)
class Samples:
    """Samples of every model input, the first axis counting them, and labels where given."""

    inputs: list[np.ndarray]
    labels: np.ndarray | None = None

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
        labels = None if self.labels is None else self.labels[:count]
        return Samples([values[:count] for values in self.inputs], labels)


def read_samples(model: keras.Model, data, most: int | None = MOST_SAMPLES) -> Samples:
    """Samples from an array, arrays for several inputs, or a `tf.data.Dataset`.

    Args:
        model: what the samples are for; its inputs fix shapes and dtypes.
        data: an array (one input); a list of arrays in the order of `model.inputs` or a dict by
            input name (several inputs); or a data set, batched or not, of such things or of
            `(x, y)` or `(x, y, weight)`.
        most: how many samples are read; None reads all.

    Raises:
        TypeError: for anything else.
        ValueError: for no samples, wrong shapes, or values that are not finite.
    """
    if isinstance(data, tf.data.Dataset):
        inputs, labels = _from_dataset(model, data, most)
    else:
        inputs, labels = _per_input(model, data), None
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
    if labels is not None and len(labels) != len(inputs[0]):
        raise ValueError(f"received {len(inputs[0])} samples but {len(labels)} labels.")
    samples = Samples(inputs, labels)
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


def _per_input(model: keras.Model, data) -> list[np.ndarray]:
    count = len(model.inputs)
    if isinstance(data, dict):
        names = [tensor.name for tensor in model.inputs]
        if set(names) != set(data):
            raise ValueError(f"the model's inputs are {names}; received data for {list(data)}.")
        return [np.asarray(data[name]) for name in names]
    if isinstance(data, list | tuple) and count > 1:
        if len(data) != count:
            raise ValueError(f"the model has {count} inputs; received {len(data)} arrays.")
        return [np.asarray(values) for values in data]
    if not hasattr(data, "__array__") and not isinstance(data, list):
        raise TypeError(
            "representative data is an array, a list or dict of arrays for a model with several "
            f"inputs, or a tf.data.Dataset; received {type(data).__name__}."
        )
    if count > 1:
        raise ValueError(
            f"the model has {count} inputs: give a list of {count} arrays or a dict by name; "
            f"received {type(data).__name__}."
        )
    return [np.asarray(data)]


def _from_dataset(model: keras.Model, data: tf.data.Dataset, most: int | None):
    spec = data.element_spec
    labelled = isinstance(spec, tuple) and len(spec) in (2, 3) and len(model.inputs) == 1
    if isinstance(spec, tuple) and len(model.inputs) > 1:
        # ((a, b), y) carries labels, (a, b) does not.
        labelled = not isinstance(spec[0], tf.TensorSpec)
    x_spec = keras.tree.flatten(spec[0] if labelled else spec)[0]
    rank = len(model.inputs[0].shape)
    if x_spec.shape.rank is not None and x_spec.shape.rank < rank:
        data = data.batch(64)
    parts: list[list[np.ndarray]] = []
    labels: list[np.ndarray] = []
    read = 0
    for element in data.as_numpy_iterator():
        x = element[0] if labelled else element
        parts.append(_per_input(model, x))
        if labelled:
            labels.append(np.asarray(element[1]))
        read += len(parts[-1][0])
        if most is not None and read >= most:
            break
    if not parts:
        raise ValueError("the data set of representative data is empty.")
    inputs = [np.concatenate(column) for column in zip(*parts)]
    return inputs, np.concatenate(labels) if labels else None


def _checked(values: np.ndarray, tensor, number: int) -> np.ndarray:
    if not (np.issubdtype(values.dtype, np.number) or values.dtype == bool):
        raise TypeError(
            f"samples of input {number} have dtype {values.dtype}, which holds no numbers."
        )
    wanted = tuple(tensor.shape[1:])
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
