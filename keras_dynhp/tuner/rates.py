"""A pruning rate for each group: how wide each group is to be in the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np

from keras_dynhp import criteria
from keras_dynhp.criteria import Criterion
from keras_dynhp.pruning.frozen import find_unfrozen_groups
from keras_dynhp.pruning.resources import Resource, parameters

# Scores are 0 to 1; what goes first scores so much less than what stays, which has at least
# `_LEAST`, that no cost of a neuron makes up for it.
_FIRST, _LEAST = 1e-15, 1e-6


@dataclass(frozen=True)
class FullNetwork:
    """What a trial has to know of the network before any pruning.

    Attributes:
        parameters: how many it has.
        sizes: the widths of its groups, by name.
        cost: its parameters as a function of widths.
    """

    parameters: int
    sizes: dict[str, int]
    cost: Resource

    @classmethod
    def of(cls, model: keras.Model) -> FullNetwork:
        """Of a model that has not been pruned."""
        groups = find_unfrozen_groups(model)
        sizes = {group.name: group.size for group in groups}
        return cls(model.count_params(), sizes, parameters(groups))

    def parameters_at(self, widths: Mapping[str, int]) -> int:
        """How many there are if some groups have other widths."""
        sizes = [widths.get(name, size) for name, size in self.sizes.items()]
        return round(self.cost.value(np.array(sizes, float)))


def smaller_widths(
    sizes: Mapping[str, int], rates: Mapping[str, float], round_to: int = 1
) -> dict[str, int]:
    """The width of each group of which the share `rates[name]` goes; at least one neuron stays.

    Example:

    >>> smaller_widths({"a": 50, "b": 30}, {"a": 0.8}, round_to=4)
    {'a': 12}
    """
    widths = {}
    for name, rate in rates.items():
        left = max(1, round((1 - rate) * sizes[name]))
        widths[name] = min(sizes[name], -(-left // round_to) * round_to)
    return widths


@keras.saving.register_keras_serializable(package="keras_dynhp")
class GroupRates(Criterion):
    """Lets groups shrink to widths of their own, in the order that another criterion says.

    In each group with a width, as many neurons as are too many score less than every other neuron
    of the network; so they are the first to go on the way to a target, in the order of their own
    scores, and a target of as many parameters as there are at those widths ends with exactly them.

    Args:
        criterion: what a neuron is worth, as `DynHP` takes it.
        widths: by the name of a group, the width that it is to have.
    """

    def __init__(self, criterion: str | Criterion, widths: Mapping[str, int]):
        self.criterion = criteria.get(criterion)
        self.widths = dict(widths)
        self.uses_gradients = self.criterion.uses_gradients

    def scores(self, groups, gates=None) -> dict[str, np.ndarray]:
        """As `Criterion.scores`."""
        found = self.criterion.scores(groups, gates)
        lowest = min([0.0, *(scores.min() for scores in found.values())])
        span = max([scores.max() - lowest for scores in found.values()], default=0.0) or 1.0
        result = {}
        for name, given in found.items():
            scores = (given - lowest) / span
            too_many = max(0, len(scores) - self.widths.get(name, len(scores)))
            first = np.argsort(scores, kind="stable")[:too_many]
            result[name] = np.maximum(scores, _LEAST)
            result[name][first] = _FIRST * scores[first]
        return result

    def get_state(self) -> dict:
        return self.criterion.get_state()

    def set_state(self, state: dict) -> None:
        self.criterion.set_state(state)

    def get_config(self) -> dict:
        criterion = keras.saving.serialize_keras_object(self.criterion)
        return {"criterion": criterion, "widths": self.widths}
