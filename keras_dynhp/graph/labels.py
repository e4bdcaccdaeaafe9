"""Labels: which neuron every position of every axis of a tensor or variable belongs to.

A tensor's labels are an integer array with the tensor's rank, in which every dimension is either
the tensor's own or 1 ("does not vary along this axis"). Data-movement operations are traced by
running them, with NumPy, on the labels: what a transpose does to numbers it does to names.

A label of 0 or more is a unit (a neuron-to-be). A negative label is a *fixed* position, which can
not be removed; each negative number stands for one reason why.
"""

from __future__ import annotations

import math

import numpy as np


def blank(rank: int, code: int) -> np.ndarray:
    """Labels that hold `code` everywhere."""
    return np.full((1,) * rank, code, dtype=np.int64)


def on_axis(rank: int, axis: int, vector: np.ndarray) -> np.ndarray:
    """Labels that vary along one axis only, as `vector` does."""
    shape = [1] * rank
    shape[axis] = len(vector)
    return compress(np.asarray(vector, dtype=np.int64).reshape(shape))


def varying(labels: np.ndarray) -> tuple[int, ...]:
    """The axes along which the labels are written out."""
    return tuple(axis for axis, dim in enumerate(labels.shape) if dim > 1)


def expand(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Labels written out along every axis."""
    return np.broadcast_to(labels, shape)


def compress(labels: np.ndarray) -> np.ndarray:
    """Labels with every axis along which they are constant folded to 1."""
    for axis, dim in enumerate(labels.shape):
        if dim > 1:
            first = labels.take([0], axis=axis)
            if (labels == first).all():
                labels = first
    return labels


def axis_vector(labels: np.ndarray, axis: int, size: int) -> np.ndarray:
    """The labels along one axis, taken at the first position of every other axis."""
    index = tuple(slice(None) if a == axis % labels.ndim else 0 for a in range(labels.ndim))
    return np.ascontiguousarray(np.broadcast_to(labels[index], (size,)))


def static_shape(shape: tuple[int | None, ...], unknown: int = 1) -> tuple[int, ...]:
    """A shape with its unknown dimensions replaced, so that NumPy can work with it."""
    return tuple(unknown if dim is None else dim for dim in shape)


def element_count(shape: tuple[int | None, ...]) -> int:
    """The number of elements in a shape, its unknown dimensions counted as 1."""
    return math.prod(static_shape(shape))


class Units:
    """All units of a trace, what couples them, and why some of them must stay.

    Couplings are collected as pairs and resolved at once by `roots()`, so that tracing costs time
    linear in the number of channels.
    """

    def __init__(self):
        self.producers: list[int] = []  # for each unit, the index of the producer that made it
        self.count = 0
        self.fixed_reasons: list[str] = []
        self._pairs: list[np.ndarray] = []
        self._pinned: list[tuple[np.ndarray, str]] = []

    def new(self, count: int, producer: int) -> np.ndarray:
        """`count` new units made by `producer`."""
        units = np.arange(self.count, self.count + count, dtype=np.int64)
        self.count += count
        self.producers.extend([producer] * count)
        return units

    def fixed(self, reason: str) -> int:
        """A new negative code; positions that carry it stay, for this reason."""
        self.fixed_reasons.append(reason)
        return -len(self.fixed_reasons)

    def why_fixed(self, code: int) -> str:
        """The reason behind a negative code."""
        return self.fixed_reasons[-code - 1]

    def pin(self, labels: np.ndarray, reason: str, foremost: bool = False) -> None:
        """Keep these units, whatever happens; a foremost reason is the one that is told."""
        units = np.unique(labels)
        units = units[units >= 0]
        if len(units):
            self._pinned.insert(0 if foremost else len(self._pinned), (units, reason))

    def couple(self, a: np.ndarray, b: np.ndarray) -> None:
        """Make the units of two arrays stay or go together, position by position."""
        a, b = np.broadcast_arrays(a, b)
        pairs = np.stack([a.ravel(), b.ravel()])
        pairs = pairs[:, pairs[0] != pairs[1]]
        if not pairs.size:
            return
        pairs = np.unique(pairs, axis=1)
        both = (pairs >= 0).all(axis=0)
        self._pairs.append(pairs[:, both])
        for one, other in (pairs, pairs[::-1]):
            half = (one >= 0) & (other < 0)
            for code in np.unique(other[half]):
                self.pin(one[half & (other == code)], self.why_fixed(int(code)))

    def roots(self) -> np.ndarray:
        """For every unit, the smallest unit that it is coupled with."""
        roots = np.arange(self.count, dtype=np.int64)
        if not self._pairs:
            return roots
        left, right = np.concatenate(self._pairs, axis=1)
        while True:
            low = np.minimum(roots[left], roots[right])
            before = roots.copy()
            # Hook the roots of both ends onto the smaller one, then shorten every path.
            np.minimum.at(roots, before[left], low)
            np.minimum.at(roots, before[right], low)
            while True:
                shorter = roots[roots]
                if (shorter == roots).all():
                    break
                roots = shorter
            if (roots == before).all():
                return roots

    def pinned(self, roots: np.ndarray) -> dict[int, str]:
        """The roots that must stay, with the first reason given for each."""
        reasons: dict[int, str] = {}
        for units, reason in self._pinned:
            for root in np.unique(roots[units]).tolist():
                reasons.setdefault(root, reason)
        return reasons
