"""Goals: the target of a run, and what it means at every stage of the way there."""

from __future__ import annotations

import math
from collections.abc import Mapping

import keras
import numpy as np

from keras_dynhp.costs.target import Target
from keras_dynhp.graph.groups import ChannelGroups
from keras_dynhp.pruning import device_resources, resources
from keras_dynhp.pruning.selection import Unreachable, smallest_widths

# How the resources that a target may limit follow from the widths of the groups.
RESOURCES = {
    "params": resources.parameters,
    "macs": resources.macs,
    "flash": device_resources.flash_bytes,
    "ram": device_resources.Ram,
}

# Bytes on the device are estimated; the goal stays this far under the limit, and this far once
# the estimate has been corrected by a measurement.
SAFETY = {"flash": 0.97, "ram": 0.95}
CORRECTED = 0.995


class Goals:
    """The way from a full network to a target.

    Args:
        groups: the channel groups of the full network.
        target: what the final network must satisfy.
        round_to: widths end at multiples of this.

    Attributes:
        full: each limited resource of the full network.
        limits: the most that each may be in the end.
    """

    def __init__(self, groups: ChannelGroups, target: Target, round_to: int = 1):
        self._round_to = round_to
        wanted = {name for name, value in target.get_config().items() if value is not None}
        if "compression" in wanted:
            wanted.add("params")
        self._names = [name for name in RESOURCES if name in wanted]
        sizes = np.array([group.size for group in groups], float)
        self.full = {name: RESOURCES[name](groups).value(sizes) for name in self._names}
        self._asked = target.limits(self.full)
        self.limits = {name: SAFETY.get(name, 1.0) * limit for name, limit in self._asked.items()}

    def at(self, groups: ChannelGroups, fraction: float) -> list[tuple[resources.Resource, float]]:
        """What each resource may be at a fraction of the way, for the network as it is now.

        What a device needs beside its tensors is estimated anew for every network, and may turn
        out to be more than it was at first. Such a goal is then the least that can be had: when
        training ends the real figures say whether that is enough.
        """
        least = smallest_widths(groups, self._round_to)
        return [
            (r, max(goal, r.value(least)) if r.name in SAFETY else goal)
            for r, goal in self._wanted(groups, fraction)
        ]

    def _wanted(self, groups, fraction: float) -> list[tuple[resources.Resource, float]]:
        return [
            (
                RESOURCES[name](groups),
                self.full[name] - fraction * max(0.0, self.full[name] - self.limits[name]),
            )
            for name in self._names
        ]

    def missed(self, groups: ChannelGroups) -> dict[str, tuple[float, float]]:
        """By resource: what the network has now and the most it may have, where it has more."""
        sizes = np.array([group.size for group in groups], float)
        figures = {r.name: (r.value(sizes), goal) for r, goal in self._wanted(groups, 1.0)}
        return {name: (now, goal) for name, (now, goal) in figures.items() if now > goal}

    def correct(self, groups: ChannelGroups, measured: Mapping[str, float]) -> None:
        """Lower the limits of what was estimated too low.

        Args:
            groups: of the network as it is now.
            measured: real figures of that network, by the resource's name.
        """
        sizes = np.array([group.size for group in groups], float)
        for name in self._names:
            if name in measured:
                estimate = RESOURCES[name](groups).value(sizes)
                limit = CORRECTED * self._asked[name] * estimate / measured[name]
                self.limits[name] = min(self.limits[name], limit)

    def check(self, model: keras.Model, groups: ChannelGroups) -> None:
        """Raise before anything is changed if the target can't be reached.

        Raises:
            ValueError: if nothing can be pruned.
            Unreachable: a ValueError with the smallest target that can be.
        """
        if not len(groups):
            raise ValueError(f"Nothing in model {model.name!r} can be pruned:\n{groups}")
        least = smallest_widths(groups, self._round_to)
        for resource, goal in self._wanted(groups, 1.0):
            floor = resource.value(least)
            if floor > goal:
                name, safety = resource.name, SAFETY.get(resource.name, 1.0)
                spare = f" (an estimate, kept {1 - safety:.0%} below the limit)" * (safety < 1)
                raise Unreachable(
                    f"The target can't be met: {name} would have to fall from "
                    f"{self.full[name]:,.0f} to {self._asked[name]:,.0f}, and with every group at "
                    f"its smallest {floor:,.0f} are left{spare}. The smallest reachable target is "
                    f"{name}={_least_limit(floor, safety)}."
                )


def _least_limit(floor: float, safety: float) -> int:
    """The least whole limit of which `safety` is no less than `floor`."""
    limit = math.ceil(floor / safety)
    return limit if safety * limit >= floor else limit + 1  # division rounds
