"""LiveNetwork: a model in its present widths; neurons and variables keep their first numbers."""

from __future__ import annotations

import keras
import numpy as np

from keras_dynhp.federated.blank import blank_weights
from keras_dynhp.federated.layout import Layout
from keras_dynhp.keras_state.model import adopt, refresh_statistics
from keras_dynhp.pruning.following import origins_of
from keras_dynhp.pruning.frozen import find_unfrozen_groups
from keras_dynhp.rebuild.clone import clone_model
from keras_dynhp.rebuild.in_place import rebuild_in_place
from keras_dynhp.rebuild.moves import settle, transfers
from keras_dynhp.rebuild.plan import RebuildPlan, plan_rebuild
from keras_dynhp.rebuild.release import put_value, release_variable
from keras_dynhp.rebuild.transfer import Transfer

__all__ = ["LiveNetwork"]


class LiveNetwork:
    """A model that becomes smaller and smaller, and which of the full network's neurons it has.

    Args:
        model: the full network; its object becomes the smaller ones.

    Attributes:
        layout: of the full network.
        part: which neurons are there, an array of booleans over the full network's.
        groups: the channel groups of the model as it is.
        variables: its variables in the layout's order.
    """

    def __init__(self, model: keras.Model):
        self.model = model
        self.layout = Layout(model)
        self.part = self.layout.everything()
        self.groups = self.layout.groups
        self.variables = list(self.layout.variables)
        offsets = self.layout.offsets
        self._numbers = {g.name: offsets[i] + np.arange(g.size) for i, g in enumerate(self.groups)}

    def shrink(self, part: np.ndarray, values: bool = True) -> None:
        """Remove all neurons that a part doesn't have.

        Args:
            part: what is to be left.
            values: whether the weights move along; if not, `set_weights` has to follow, and the
                optimizer must not be built. What the model had may be blank then.
        """
        keep = {}
        for group in self.groups:
            mask = part[self._numbers[group.name]]
            if not mask.all():
                keep[group.name] = mask
        if not keep:
            return
        plan = plan_rebuild(self.groups, self.groups.survivors(keep))
        moves = rebuild_in_place(plan) if values else self._rebuild_blank(plan)
        of = {id(move.old): move for move in moves}
        before, self.groups = self.groups, find_unfrozen_groups(self.model)
        self.variables = [of[id(v)].new if id(v) in of else v for v in self.variables]
        was = self._numbers
        self._numbers = {
            name: was[old][numbers]
            for name, (old, numbers) in origins_of(before, self.groups, of).items()
        }
        self.part = self.part & part

    def _rebuild_blank(self, plan: RebuildPlan) -> list[Transfer]:
        trace = plan.groups.trace
        with blank_weights():
            clone = clone_model(trace, plan.survivors, removals=plan.removals)
        moves = transfers(trace, clone, plan.keep)
        weights = {id(variable) for variable in self.variables}
        for move in moves:
            if id(move.old) not in weights:  # seeds, counters
                put_value(move.new, move.take(np.asarray(move.old)))
            release_variable(move.old)
        settle(trace, clone)
        adopt(self.model, clone.model, clone.pairs_and_models(trace))
        return moves

    def weights(self) -> list[np.ndarray]:
        """The values of the variables."""
        return [np.asarray(v, dtype) for v, dtype in zip(self.variables, self.layout.dtypes())]

    def set_weights(self, values: list[np.ndarray]) -> None:
        """Give the variables values, of their shapes."""
        for variable, value in zip(self.variables, values):
            put_value(variable, value)
        refresh_statistics(self.model)

    def full_widths(self) -> dict[str, float]:
        """For the name of each group, how many neurons it has in the full network."""
        first = {name: numbers[0] for name, numbers in self._numbers.items()}
        origin = {n: np.searchsorted(self.layout.offsets, i, "right") - 1 for n, i in first.items()}
        now = self.layout.widths(self.part)  # groups that were one have their shares of it
        return {
            name: len(self._numbers[name]) * self.layout.sizes[number] / now[number]
            for name, number in origin.items()
        }

    def by_group(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """Values of the full network's neurons, for the groups of now, by their names."""
        return {name: vector[numbers] for name, numbers in self._numbers.items()}

    def flat(self, values: dict[str, np.ndarray], otherwise: float) -> np.ndarray:
        """The other way round; `otherwise` is for neurons that are not in `values`."""
        vector = np.full(self.layout.neurons, otherwise)
        for name, given in values.items():
            vector[self._numbers[name]] = given
        return vector
