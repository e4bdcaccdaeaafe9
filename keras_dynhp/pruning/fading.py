"""Soft pruning: neurons on trial fade out of the network, and may resist."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from keras_dynhp.graph.groups import ChannelGroups
from keras_dynhp.keras_state.optimizer import variable_key
from keras_dynhp.rebuild.transfer import Transfer

# What a whole trial leaves of a weight that does not resist.
LEFT = np.exp(-5.0)

# A variable, what its weights on trial were when the trial began, in the order in which they lie,
# and which weights those are. Copies: what shares memory with a variable makes its updates copy.
Originals = list[tuple[keras.Variable, np.ndarray, np.ndarray]]


class Fading:
    """Masks neurons of a plain model gradually, over one pruning interval.

    After each update of the optimizer, the weights that read a neuron on trial lose the same share
    of themselves, so that e^-5 of them would be left at the end: the neuron is as good as masked
    then, while the rest of the network has had the interval to take over what it did. The gradient
    still reaches it. A neuron that the loss pulls back up resists, keeps its score, and so may
    stay (growing penalties on what is to go: Wang et al., ICLR 2021, arXiv 2012.09243; the ablation
    in `benchmarks` compares this with masks that are zero at once, with and without feedback).

    Frozen weights do not fade, as nothing updates them.

    Args:
        groups: the model's channel groups.
        masks: for each group's name, true for neurons that stay.
        optimizer: the model's optimizer, built.
        steps: how many updates the trial is expected to last.
        originals: for a trial that goes on, the weights of its beginning.
    """

    def __init__(
        self,
        groups: ChannelGroups,
        masks: Mapping[str, np.ndarray],
        optimizer,
        steps: int,
        originals: Originals | None = None,
    ):
        self.masks = {name: np.asarray(mask, bool) for name, mask in masks.items()}
        self._keep: dict[str, list[np.ndarray]] = {}
        dead: dict[int, tuple[keras.Variable, np.ndarray]] = {}
        for group in groups:
            mask = self.masks.get(group.name)
            if mask is None or mask.all():
                continue
            for place in group.places:
                if place.role != "in":
                    continue
                goes = (place.index >= 0) & ~mask[np.maximum(place.index, 0)]
                along = [1] * len(place.variable.shape)
                along[place.axis] = len(goes)
                goes = goes.reshape(along)
                keep = np.where(goes, LEFT ** (1 / max(1, steps)), 1.0)
                key = variable_key(optimizer, place.variable)
                self._keep.setdefault(key, []).append(keep)
                _, before = dead.get(id(place.variable), (None, False))
                where = np.broadcast_to(goes, place.variable.shape) | before
                dead[id(place.variable)] = (place.variable, where)
        self._originals: Originals = originals or [
            (variable, np.asarray(variable)[where], where) for variable, where in dead.values()
        ]

    def originals(self) -> Originals:
        """What comes back if the trial ends now."""
        return self._originals

    @property
    def masked(self) -> int:
        """How many neurons are on trial."""
        return sum(int((~mask).sum()) for mask in self.masks.values())

    def after_update(self, key: str, variable) -> None:
        """Inside the graph, after the optimizer's update of a variable."""
        for keep in self._keep.get(key, ()):
            variable.assign(variable * tf.constant(keep, variable.dtype))


def restore(originals: Originals) -> None:
    """Give weights that were on trial the values of its beginning."""
    for variable, values, where in originals:
        weights = np.array(variable)
        weights[where] = values
        variable.assign(weights)


def follow_rebuild(originals: Originals, moves: Mapping[int, Transfer]) -> Originals:
    """What is left of them in a rebuilt network.

    Args:
        originals: of the network before.
        moves: by the id of each variable before, where it went.
    """
    result = []
    for variable, values, where in originals:
        move = moves[id(variable)]
        weights = np.zeros(where.shape, values.dtype)
        weights[where] = values
        where = move.take(where)
        result.append((move.new, move.take(weights)[where], where))
    return result
