"""The plan of a rebuild: which indices stay, per variable and axis. Pure; nothing is changed."""

from __future__ import annotations

from dataclasses import dataclass, field

import keras
import numpy as np

from keras_dynhp.graph.groups import ChannelGroups
from keras_dynhp.graph.survivors import Survivors
from keras_dynhp.rebuild.removal import Removals, find_removals


@dataclass(frozen=True)
class RebuildPlan:
    """What stays of a model. `keep[id(variable)]` maps axes to the indices that stay, in order.

    `removals` names the layers that go as a whole, which happens only where a group has lost every
    neuron (`ChannelGroups.survivors(..., allow_empty=True)`).
    """

    groups: ChannelGroups
    survivors: Survivors
    keep: dict[int, dict[int, np.ndarray]]
    removals: Removals = field(default_factory=Removals)

    @property
    def model(self) -> keras.Model:
        """The model the plan is for."""
        return self.groups.trace.model

    @property
    def changes_nothing(self) -> bool:
        """Whether every neuron stays."""
        return bool(self.survivors.alive.all())

    def kept(self, variable: keras.Variable) -> dict[int, np.ndarray]:
        """The kept indices of one variable; axes that are kept whole are left out."""
        return self.keep.get(id(variable), {})

    def shape_of(self, variable: keras.Variable) -> tuple[int, ...]:
        """The shape that a variable will have."""
        kept = self.kept(variable)
        return tuple(len(kept[a]) if a in kept else d for a, d in enumerate(variable.shape))


def plan_rebuild(groups: ChannelGroups, survivors: Survivors) -> RebuildPlan:
    """Work out what stays of every variable.

    Raises:
        ValueError: if some axis of a variable would be left empty, in a layer that can't be
            removed as a whole.
    """
    removals = find_removals(groups.trace, survivors)
    keep: dict[int, dict[int, np.ndarray]] = {}
    for key, entry in groups.trace.variables.items():
        if key in removals.variables:
            continue
        axes = {}
        for axis, vector in enumerate(entry.vectors):
            if vector is None:
                continue
            stays = survivors.keep(vector)
            if len(stays) == 0:
                raise ValueError(
                    f"Nothing would be left of axis {axis} of {entry.variable.path!r} (layer "
                    f"{entry.layer!r}); at least one neuron of it must stay."
                )
            if len(stays) < len(vector):
                axes[axis] = stays
        if axes:
            keep[key] = axes
    return RebuildPlan(groups, survivors, keep, removals)
