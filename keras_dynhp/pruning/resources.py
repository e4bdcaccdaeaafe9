"""What a network costs as a function of the widths of its groups."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np

from keras_dynhp.costs.macs import layer_macs
from keras_dynhp.graph.groups import ChannelGroups


@dataclass(frozen=True)
class _Term:
    """`weight` times the product over axes of (`fixed` + sum of `per_neuron` * widths)."""

    weight: float
    axes: tuple[tuple[int, dict[int, float]], ...]

    def axis_sizes(self, widths: np.ndarray) -> list[float]:
        return [
            fixed + sum(count * widths[group] for group, count in per_neuron.items())
            for fixed, per_neuron in self.axes
        ]


class Resource:
    """A sum over variables of a weight times their size: parameters, or multiply-accumulates.

    Args:
        name: `"params"`, `"macs"`, ...
        constant: what does not depend on any width.
        terms: one for each variable that counts.
    """

    def __init__(self, name: str, constant: float, terms: list[_Term]):
        self.name = name
        self.constant = constant
        self.terms = terms

    def value(self, widths: np.ndarray) -> float:
        """What a network of these group widths costs."""
        return self.constant + sum(
            term.weight * float(np.prod(term.axis_sizes(widths))) for term in self.terms
        )

    def per_neuron(self, widths: np.ndarray) -> np.ndarray:
        """What one neuron of each group costs at these widths (the derivative)."""
        cost = np.zeros(len(widths))
        for term in self.terms:
            sizes = term.axis_sizes(widths)
            for axis, (_, per_neuron) in enumerate(term.axes):
                rest = float(np.prod(sizes[:axis] + sizes[axis + 1 :]))
                for group, count in per_neuron.items():
                    cost[group] += term.weight * count * rest
        return cost


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
        terms.append(_Term(weight, axes[id(variable)]))
    return Resource(name, constant, terms)


def group_axes(groups: ChannelGroups) -> dict[int, tuple[tuple[int, dict[int, float]], ...]]:
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
