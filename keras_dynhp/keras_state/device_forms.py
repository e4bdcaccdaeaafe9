"""Private facts about how Keras computes what the device has only in another form."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import keras
import tensorflow as tf
from keras.src.backend.tensorflow import nn, numpy

__all__ = ["gelu_as_sigmoid", "positions_alone", "repeats_as_resizing", "splits_as_slices"]


@contextlib.contextmanager
def splits_as_slices() -> Iterator[None]:
    """Inside, a tensor of known size is split into equal parts by a slice for each."""
    split = numpy.split

    def sliced(x, indices_or_sections, axis=0):
        length = x.shape[axis] if hasattr(x, "shape") else None
        if not isinstance(indices_or_sections, int) or length is None:
            return split(x, indices_or_sections, axis)
        width, before = length // indices_or_sections, (slice(None),) * (axis % len(x.shape))
        return [x[(*before, slice(at, at + width))] for at in range(0, length, width)]

    with _instead(numpy, split=sliced):
        yield


@contextlib.contextmanager
def repeats_as_resizing() -> Iterator[None]:
    """Inside, numbers of known shape are repeated by enlarging an image to its nearest pixels.

    `keras.ops.repeat` and `keras.ops.tile` become an operator TILE, which TensorFlow Lite Micro
    lacks. It has RESIZE_NEAREST_NEIGHBOR, for every type of number, and that copies, too.
    """
    repeat, tile = numpy.repeat, numpy.tile

    def repeated(x, repeats, axis=None):
        if not isinstance(repeats, int) or axis is None or not _are_known_numbers(x):
            return repeat(x, repeats, axis)
        return _copied(x, repeats, axis % len(x.shape), inside=1)

    def tiled(x, repeats):
        whole = isinstance(repeats, (list, tuple)) and all(isinstance(n, int) for n in repeats)
        if not whole or not _are_known_numbers(x) or len(repeats) > len(x.shape):
            return tile(x, repeats)
        for axis, count in enumerate(repeats, start=len(x.shape) - len(repeats)):
            x = _copied(x, count, axis, inside=0)
        return x

    with _instead(numpy, repeat=repeated, tile=tiled):
        yield


@contextlib.contextmanager
def gelu_as_sigmoid() -> Iterator[list[bool]]:
    """Inside, GELU is made of multiplications and a sigmoid; TensorFlow Lite Micro has no GELU.

    With z = sqrt(2 / pi) (x + 0.044715 x^3), the usual approximation x (1 + tanh(z)) / 2 is
    x sigmoid(2 z). From the exact one it is off by 0.0005 at most. (Written with tanh, the
    converter would make a GELU of it again; with x * x, TensorFlow a SQUARE, which has no int16
    form.)

    Yields:
        A list to which each GELU that is computed adds whether it was to be exact.
    """
    exact: list[bool] = []

    def gelu(x, approximate=True):
        exact.append(not approximate)
        x = numpy.convert_to_tensor(x)
        scale = 2 * math.sqrt(2 / math.pi)
        return x * tf.sigmoid(x * (scale + (scale * 0.044715 * x) * x))

    with _instead(nn, gelu=gelu):
        yield exact


@contextlib.contextmanager
def positions_alone() -> Iterator[None]:
    """Inside, `argmax` and `argmin` are one operator.

    Keras takes -0.0 for less than 0.0, for which it looks at bits; here they are equal.
    """

    def position(find):
        def found(x, axis=None, keepdims=False):
            x = numpy.convert_to_tensor(x)
            flat = tf.reshape(x, [-1]) if axis is None else x
            place = find(flat, 0 if axis is None else axis, output_type=tf.int32)
            if not keepdims:
                return place
            rank = len(x.shape)
            return tf.reshape(place, [1] * rank) if axis is None else tf.expand_dims(place, axis)

        return found

    with _instead(numpy, argmax=position(tf.argmax), argmin=position(tf.argmin)):
        yield


@contextlib.contextmanager
def _instead(module, **functions) -> Iterator[None]:
    own = {name: getattr(module, name) for name in functions}
    vars(module).update(functions)
    try:
        yield
    finally:
        vars(module).update(own)


def _are_known_numbers(x) -> bool:
    return (
        isinstance(x, tf.Tensor)
        and x.shape.is_fully_defined()
        and keras.backend.is_float_dtype(x.dtype.name)
    )


def _copied(x: tf.Tensor, count: int, axis: int, inside: int) -> tf.Tensor:
    """`count` copies along an axis: of each part of it (`inside` 1), or of the whole (0)."""
    if count == 1:
        return x
    shape = x.shape.as_list()
    before, part = math.prod(shape[: axis + inside]), math.prod(shape[axis + inside :])
    rows = tf.reshape(x, (1, before, 1, part))
    rows = tf.image.resize(rows, (before, count), method="nearest")
    return tf.reshape(rows, [n * count if a == axis else n for a, n in enumerate(shape)])
