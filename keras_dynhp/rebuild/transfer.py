"""What moves where in a rebuild: one old variable, its smaller successor, the indices kept."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np

__all__ = ["Transfer", "take"]


@dataclasses.dataclass(frozen=True, eq=False)
class Transfer:
    """How one model variable becomes its successor.

    Args:
        old: the variable of the network before the rebuild.
        new: the variable of the smaller network.
        keep: axis -> the indices kept along it, in the order in which the successor has them. An
            axis that is absent is kept whole.

    Raises:
        ValueError: the indices do not fit `old`, or `new` has another shape than they give.

    Example:

    >>> old = keras.Variable(np.arange(6.0, dtype="float32").reshape(2, 3))
    >>> new = keras.Variable(np.zeros((2, 2), dtype="float32"))
    >>> Transfer(old, new, keep={1: np.array([0, 2])}).take(old.numpy())
    array([[0., 2.],
           [3., 5.]], dtype=float32)
    """

    old: keras.Variable
    new: keras.Variable
    keep: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = list(self.old.shape)
        for axis, indices in self.keep.items():
            if not 0 <= axis < len(shape):
                raise ValueError(
                    f"Variable {self.old.path!r} has axes 0 to {len(shape) - 1}; received "
                    f"indices to keep along axis {axis}."
                )
            indices = np.asarray(indices)
            valid = (
                indices.ndim == 1
                and indices.dtype.kind in "iu"
                and len(np.unique(indices)) == len(indices)
                and bool(np.all((indices >= 0) & (indices < shape[axis])))
            )
            if not valid:
                raise ValueError(
                    f"The indices to keep along axis {axis} of variable {self.old.path!r} (shape "
                    f"{tuple(self.old.shape)}) must be distinct integers from 0 to "
                    f"{shape[axis] - 1} in a one-dimensional array. Received: {indices}"
                )
            shape[axis] = len(indices)
        if tuple(shape) != tuple(self.new.shape):
            raise ValueError(
                f"Keeping these indices of variable {self.old.path!r} gives shape {tuple(shape)}, "
                f"but its successor {self.new.path!r} has shape {tuple(self.new.shape)}."
            )

    @property
    def whole(self) -> bool:
        """Whether the successor has every number of the old variable in its old place."""
        return all(
            len(indices) == self.old.shape[axis] and np.array_equal(indices, np.sort(indices))
            for axis, indices in self.keep.items()
        )

    def take(self, value: np.ndarray) -> np.ndarray:
        """The part of an array of the old variable's shape that survives."""
        return take(value, self.keep)


def take(value: np.ndarray, keep: dict[int, np.ndarray]) -> np.ndarray:
    """The part of an array at the kept indices of each axis; axes absent from `keep` whole."""
    for axis, indices in keep.items():
        value = np.take(value, indices, axis=axis)
    return value
