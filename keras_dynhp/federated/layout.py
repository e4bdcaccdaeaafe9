"""Layout: the full network's neurons and variables, numbered alike on the server and on clients."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping

import keras
import numpy as np

from keras_dynhp.pruning.frozen import find_unfrozen_groups
from keras_dynhp.rebuild.plan import RebuildPlan, plan_rebuild

__all__ = ["Indices", "Layout"]

# Of one variable: axis -> positions along it; axes that are absent count whole.
Indices = dict[int, np.ndarray]


class Layout:
    """What two machines must agree on to speak of the same neurons and variables.

    The neurons of all channel groups are numbered in one row, group after group; a *part* of the
    network is an array of booleans of that length, true for the neurons that it has. Variables
    are numbered as in `model.weights`; those that hold no real numbers don't travel. Names play
    no role, as Keras numbers nameless layers anew in each process.

    Args:
        model: the full network. Afterwards it may be rebuilt: only its graph is remembered.

    Attributes:
        groups: its channel groups.
        sizes: their widths.
        variables: its variables that hold real numbers.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(3, "relu"), keras.layers.Dense(2)]
    ... )
    >>> layout = Layout(model)
    >>> layout.shapes(np.array([True, False, True]))
    [(4, 2), (2,), (2, 2), (2,)]
    """

    def __init__(self, model: keras.Model):
        self.groups = find_unfrozen_groups(model)
        self.sizes = [group.size for group in self.groups]
        self.offsets = np.concatenate([[0], np.cumsum(self.sizes)]).astype(int)
        self.variables = [v for v in model.weights if "float" in _dtype(v)]

    @property
    def neurons(self) -> int:
        """How many neurons there are."""
        return int(self.offsets[-1])

    def everything(self) -> np.ndarray:
        """The part that is the whole network."""
        return np.ones(self.neurons, bool)

    def widths(self, part: np.ndarray) -> list[int]:
        """How many neurons of each group a part has."""
        return [int(values.sum()) for values in self._rows(part)]

    def by_name(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """Values of all neurons, by the name of their group."""
        return {group.name: values for group, values in zip(self.groups, self._rows(vector))}

    def narrowed(
        self, part: np.ndarray, widths: list[int], worth: np.ndarray | None = None
    ) -> np.ndarray:
        """A part of a part: of each group the neurons worth most, no more than `widths` says.

        Args:
            part: what to choose from.
            widths: for each group, how many at most.
            worth: one number for each neuron; None: the first are worth most.
        """
        worth = -np.arange(self.neurons, dtype=float) if worth is None else worth
        chosen = np.zeros(self.neurons, bool)
        for start, stop, width in zip(self.offsets, self.offsets[1:], widths):
            inside = start + np.flatnonzero(part[start:stop])
            best = np.argsort(-worth[inside], kind="stable")[: max(1, width)]
            chosen[inside[best]] = True
        return chosen

    def plan(self, part: np.ndarray) -> RebuildPlan:
        """What a rebuild of the full network to a part would keep."""
        return plan_rebuild(self.groups, self.groups.survivors(self.by_name(part)))

    def shapes(self, part: np.ndarray) -> list[tuple[int, ...]]:
        """The shapes of the variables of a part."""
        plan = self.plan(part)
        return [plan.shape_of(variable) for variable in self.variables]

    def dtypes(self) -> list[np.dtype]:
        """The types in which variables travel: their own, or float32 where NumPy has none."""
        names = [_dtype(variable) for variable in self.variables]
        return [np.dtype("float32" if name == "bfloat16" else name) for name in names]

    def places(self, part: np.ndarray, whole: np.ndarray) -> list[Indices]:
        """Where the variables of a part lie in those of a larger part."""
        inner, outer = self.plan(part), self.plan(whole)
        return [_places(inner.kept(variable), outer.kept(variable)) for variable in self.variables]

    def describe(self) -> list[str]:
        """Each group's width and each variable's shape and type, for comparison by people."""
        groups = [f"group {number}: {size} neurons" for number, size in enumerate(self.sizes)]
        return groups + [
            f"variable {number}: {tuple(variable.shape)} {dtype}"
            for number, (variable, dtype) in enumerate(zip(self.variables, self.dtypes()))
        ]

    @functools.cached_property
    def fingerprint(self) -> str:
        """The same for two networks exactly if they have the same neurons in the same places."""
        places = [
            {str(axis): where.tolist() for axis, where in indices.items()}
            for group in range(len(self.sizes))
            for indices in self.places(self._without_first(group), self.everything())
        ]
        text = json.dumps([self.describe(), places])
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _without_first(self, group: int) -> np.ndarray:
        part = self.everything()
        part[self.offsets[group]] = False
        return part

    def _rows(self, vector: np.ndarray) -> list[np.ndarray]:
        return [vector[start:stop] for start, stop in zip(self.offsets, self.offsets[1:])]


def _places(inner: Mapping[int, np.ndarray], outer: Mapping[int, np.ndarray]) -> Indices:
    places = {}
    for axis, kept in inner.items():
        where = np.searchsorted(outer[axis], kept) if axis in outer else np.asarray(kept)
        places[axis] = where
    return places


def _dtype(variable: keras.Variable) -> str:
    return keras.backend.standardize_dtype(variable.dtype)
