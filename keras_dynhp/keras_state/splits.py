"""Private facts about how Keras splits tensors, as cells of recurrent layers do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from keras.src.backend.tensorflow import numpy

__all__ = ["splits_as_slices"]


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

    numpy.split = sliced
    try:
        yield
    finally:
        numpy.split = split
