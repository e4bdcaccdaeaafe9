"""What a network costs as a function of the widths of its groups."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from keras_dynhp.costs.macs import layer_macs
from keras_dynhp.graph.groups import ChannelGroups

# Of each axis of a variable: what is fixed, and how many positions each neuron of a group adds.
Axes = tuple[tuple[int, dict[int, float]], ...]


class Resource:
    """A sum over variables of a weight times their size: parameters, or multiply-accumulates.

    Args:
        name: `"params"`, `"macs"`, ...
        constant: what does not depend on any width.
        terms: one for each variable that counts, its weight and its axes.
        num_groups: how many groups there are.
    """

    def __init__(
        self, name: str, constant: float, terms: Sequence[tuple[float, Axes]], num_groups: int
    ):
        self.name = name
        self.constant = constant
        self._num_groups = num_groups
        self._weights = np.array([weight for weight, _ in terms], float)
        # Asked for each neuron that goes, so it has to be quick: an array of all axes of all
        # variables, and beside it what the groups add to which of them.
        most = max((len(axes) for _, axes in terms), default=1)
        self._fixed = np.ones((len(terms), most))
        entries = []
        for term, (_, axes) in enumerate(terms):
            for axis, (fixed, per_neuron) in enumerate(axes):
                self._fixed[term, axis] = fixed
                entries += [(term * most + axis, g, count) for g, count in per_neuron.items()]
        columns = np.array(entries, float).reshape(-1, 3).T
        self._place, self._group = columns[0].astype(int), columns[1].astype(int)
        self._count = columns[2]

    def value(self, widths: np.ndarray) -> float:
        """What a network of these group widths costs."""
        return float(self.constant + self._weights @ self._sizes(widths).prod(axis=1))

    def per_neuron(self, widths: np.ndarray) -> np.ndarray:
        """What one neuron of each group costs at these widths (the derivative)."""
        sizes = self._sizes(widths)
        slope = np.empty_like(sizes)
        for axis in range(sizes.shape[1]):
            slope[:, axis] = self._weights * np.delete(sizes, axis, axis=1).prod(axis=1)
        each = self._count * slope.ravel()[self._place]
        return np.bincount(self._group, each, self._num_groups)

    def _sizes(self, widths: np.ndarray) -> np.ndarray:
        """The length of every axis: one line for each variable, filled up with ones."""
        added = self._count * np.asarray(widths, float)[self._group]
        added = np.bincount(self._place, added, self._fixed.size)
        return self._fixed + added.reshape(self._fixed.shape)


def parameters(groups: ChannelGroups) -> Resource:
    """The number of parameters, as `model.count_params()` counts."""
    weights = {id(v): 1.0 for v in groups.trace.model.weights}
    return weighted("params", groups, weights)


def macs(groups: ChannelGroups) -> Resource:
    """Multiply-accumulates of one sample: each kernel's share grows with its size."""
    per_layer = layer_macs(groups.trace.model)
    kernels: dict[str, list[keras.Variable]] = {}
    for variable, layer in _layers_of(groups).values():
        if len(variable.shape) > 1:
            kernels.setdefault(layer, []).append(variable)
    weights, constant = {}, 0.0
    for layer, count in per_layer.items():
        size = sum(int(np.prod(v.shape)) for v in kernels.get(layer, ()))
        if not size:
            constant += count
            continue
        for variable in kernels[layer]:
            weights[id(variable)] = count / size
    return weighted("macs", groups, weights, constant)


def _layers_of(groups: ChannelGroups) -> dict[int, tuple[keras.Variable, str]]:
    return {key: (e.variable, e.layer) for key, e in groups.trace.variables.items()}


def weighted(
    name: str, groups: ChannelGroups, weights: dict[int, float], constant: float = 0.0
) -> Resource:
    """A sum over variables of their size times a weight, found by the variable's id."""
    axes = group_axes(groups)
    terms = []
    for variable in groups.trace.model.weights:
        weight = weights.get(id(variable), 0.0)
        if not weight:
            continue
        if id(variable) not in axes:
            constant += weight * int(np.prod(variable.shape))
            continue
        terms.append((weight, axes[id(variable)]))
    return Resource(name, constant, terms, len(groups))


def group_axes(groups: ChannelGroups) -> dict[int, Axes]:
    """For every variable that some group reaches: per axis, what is fixed and what each group adds.

    `(fixed, {group number: positions per neuron})`.
    """
    inside: dict[int, dict[int, dict[int, float]]] = {}
    variables = {}
    for number, group in enumerate(groups):
        for place in group.places:
            count = int((place.index >= 0).sum()) / group.size
            key = id(place.variable)
            variables[key] = place.variable
            inside.setdefault(key, {}).setdefault(place.axis, {})[number] = count
    sizes = [group.size for group in groups]
    result = {}
    for key, axes in inside.items():
        described = []
        for axis, dim in enumerate(variables[key].shape):
            per_neuron = axes.get(axis, {})
            fixed = dim - round(sum(count * sizes[g] for g, count in per_neuron.items()))
            described.append((fixed, per_neuron))
        result[key] = tuple(described)
    return result
