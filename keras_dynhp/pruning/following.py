"""Following neurons through a rebuild."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from keras_dynhp.graph.groups import ChannelGroup
from keras_dynhp.rebuild.transfer import Transfer


def origins_of(
    before: Iterable[ChannelGroup], after: Iterable[ChannelGroup], moves: Mapping[int, Transfer]
) -> dict[str, tuple[str, np.ndarray]]:
    """For every group after a rebuild, the group it was and the number each neuron had there.

    Groups that were none before are left out.
    """
    old_places = {}
    for group in before:
        for place in group.places:
            old_places.setdefault((id(place.variable), place.axis), []).append((group, place))
    old_of = {id(move.new): move for move in moves.values()}
    origins = {}
    for group in after:
        if not group.places:
            continue
        place = group.places[0]
        move = old_of[id(place.variable)]
        positions = np.zeros(group.size, np.int64)
        inside = place.index >= 0
        positions[place.index[inside]] = np.flatnonzero(inside)
        kept = move.keep.get(place.axis)
        positions = positions if kept is None else np.asarray(kept)[positions]
        for old_group, old_place in old_places.get((id(move.old), place.axis), ()):
            numbers = old_place.index[positions]
            if (numbers >= 0).all():
                origins[group.name] = (old_group.name, numbers)
    return origins


def follow(values: Mapping[str, np.ndarray], origins) -> dict[str, np.ndarray]:
    """Per-neuron values of the groups before a rebuild, for those after it."""
    return {
        name: np.asarray(values[old])[numbers]
        for name, (old, numbers) in origins.items()
        if old in values
    }
