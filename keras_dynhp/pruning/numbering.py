"""Neurons keep the numbers they had at the beginning, whatever goes and whatever groups become."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np

from keras_dynhp.graph.groups import ChannelGroups
from keras_dynhp.pruning.following import origins_of
from keras_dynhp.rebuild.transfer import Transfer

__all__ = ["Numbering"]


class Numbering:
    """What is left of the groups of a network that is being pruned.

    Args:
        groups: of the full network.

    Attributes:
        full: the name and width of every group that could be pruned at the beginning.
        removed: for each of those, the numbers of the neurons that went.
    """

    def __init__(self, groups: ChannelGroups):
        self.full: dict[str, int] = {}
        self.removed: dict[str, np.ndarray] = {}
        self._lost: dict[str, int] = {}  # how many of those did anything
        # For each group: its name at the beginning, and the number each neuron had then. Also for
        # those that stay whole, for their layers may be unfrozen one day.
        self._origins = {g.name: (g.name, np.arange(g.size)) for g in groups.everything}
        self._begin(groups)

    def _begin(self, groups: ChannelGroups) -> None:
        for group in groups:
            origin = self._origins[group.name][0]
            if origin not in self.full:
                self.full[origin], self.removed[origin] = group.size, np.arange(0)
                self._lost[origin] = 0

    def widths(self) -> dict[str, int]:
        """The width of every group of the beginning, also of those that are kept whole by now."""
        return {name: size - len(self.removed[name]) for name, size in self.full.items()}

    def widths_before(self, groups: ChannelGroups) -> dict[str, float]:
        """For each group of now, how many neurons it would have if none had gone.

        Those that did nothing don't count: that they go changes no rate, as it changes nothing
        else. Groups that were one have their shares of what it lost.
        """
        now: dict[str, int] = {}
        for group in groups:
            origin = self._origins[group.name][0]
            now[origin] = now.get(origin, 0) + group.size
        growth = {origin: 1 + self._lost[origin] / size for origin, size in now.items()}
        return {g.name: g.size * growth[self._origins[g.name][0]] for g in groups}

    def remove(self, keep: Mapping[str, np.ndarray], scores: Mapping[str, np.ndarray]) -> None:
        """Note which neurons go: those for which a group's mask is false.

        Args:
            keep: masks of groups of now.
            scores: what their neurons are worth; those worth zero did nothing.
        """
        for name, mask in keep.items():
            origin, numbers = self._origins[name]
            self.removed[origin] = np.sort(np.append(self.removed[origin], numbers[~mask]))
            self._lost[origin] += int(np.count_nonzero(scores.get(name, ~mask)[~mask]))

    def follow(
        self, before: ChannelGroups, after: ChannelGroups, moves: Mapping[int, Transfer]
    ) -> dict[str, tuple[str, np.ndarray]]:
        """Go on with the groups that the network has now; returns which they were before."""
        origins = origins_of(before.everything, after.everything, moves)
        was = self._origins
        self._origins = {name: (was[old][0], was[old][1][n]) for name, (old, n) in origins.items()}
        self._begin(after)
        return origins

    def copy(self) -> Numbering:
        """This as it is now, whatever becomes of it."""
        other = copy.copy(self)
        other.full, other.removed = dict(self.full), dict(self.removed)
        other._lost, other._origins = dict(self._lost), dict(self._origins)
        return other

    # ---- states -----------------------------------------------------------------------------

    def get_state(self) -> dict:
        """As plain values and arrays."""
        return {"full": dict(self.full), "removed": dict(self.removed), "lost": dict(self._lost)}

    def take_over(self, state: dict, groups: ChannelGroups) -> dict[str, np.ndarray]:
        """On the full network: take over the names of a state.

        Returns:
            By the names of groups of now, masks of the neurons that stay on the way to the state.

        Raises:
            ValueError: the state is that of another network.
        """
        full = {name: int(size) for name, size in state["full"].items()}
        if list(full.values()) != list(self.full.values()):
            raise ValueError(
                f"This state is that of another network than {groups.trace.model.name!r}, whose "
                f"groups have the widths {self.full}. Received: {full}."
            )
        # Keras numbers the names of nameless layers anew in each process: the state's names stay.
        names = dict(zip(self.full, full))
        self._origins = {now: (names.get(old, old), n) for now, (old, n) in self._origins.items()}
        self.removed = {names[old]: gone for old, gone in self.removed.items()}
        self.full, self._lost = full, dict.fromkeys(full, 0)
        keep = {}
        for group in groups:
            origin, numbers = self._origins[group.name]
            mask = ~np.isin(numbers, state["removed"][origin])
            if not mask.all():
                keep[group.name] = mask
        return keep

    def set_state(self, state: dict) -> None:
        """On the network of the state: what else it knew."""
        self._lost = {name: int(count) for name, count in state["lost"].items()}

    def by_origin(self, values: Mapping[str, np.ndarray]) -> dict:
        """Per-neuron values of groups, for each name at the beginning the numbers beside them."""
        result: dict[str, list] = {}
        for name, given in values.items():
            origin, numbers = self._origins[name]
            result.setdefault(origin, []).append([numbers, np.asarray(given)])
        return result

    def from_origin(self, values: Mapping[str, list], groups: ChannelGroups) -> dict:
        """The other way round."""
        result = {}
        for group in groups:
            origin, numbers = self._origins[group.name]
            for known, given in values.get(origin, ()):
                place = np.searchsorted(known, numbers)
                if len(known) and np.array_equal(known[np.minimum(place, len(known) - 1)], numbers):
                    result[group.name] = given[place]
        return result
