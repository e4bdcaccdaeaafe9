"""Soft masks with feedback: masked neurons output nothing, and still learn."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from keras_dynhp.graph.groups import ChannelGroups
from keras_dynhp.keras_state.optimizer import variable_key


class SoftMasks:
    """Masks neurons of a plain model by zeroing the weights that read them.

    That is the same function as a mask on the neuron wherever it is read, costs nothing in the
    forward and backward pass, and leaves a gradient on the zeroed weights: the optimizer's updates
    of them gather in a shadow, so a neuron that deserves it comes back with weights that have kept
    learning (dense weights, gradient at the masked ones: Lin et al., ICLR 2020, arXiv 2006.07253).

    Args:
        groups: the model's channel groups.
        masks: for each group's name, true for neurons that stay.
        optimizer: the model's optimizer, built.
    """

    def __init__(self, groups: ChannelGroups, masks: Mapping[str, np.ndarray], optimizer):
        self.groups = groups
        self.masks = {name: np.asarray(mask, bool) for name, mask in masks.items()}
        self._entries: dict[str, list[_Masked]] = {}
        for group in groups:
            mask = self.masks.get(group.name)
            if mask is None or mask.all():
                continue
            for place in group.places:
                if place.role != "in":
                    continue
                dead = (place.index >= 0) & ~mask[np.maximum(place.index, 0)]
                key = variable_key(optimizer, place.variable)
                self._entries.setdefault(key, []).append(_Masked(place, np.flatnonzero(dead)))
        for entries in self._entries.values():
            for entry in entries:
                entry.silence()

    def masked(self) -> int:
        """How many neurons are masked."""
        return sum(int((~mask).sum()) for mask in self.masks.values())

    def lifted(self, key: str, variable):
        """The value of a variable as if nothing in it were masked."""
        value = tf.convert_to_tensor(variable)
        for entry in self._entries.get(key, ()):
            value = entry.lifted(value)
        return value

    def after_update(self, key: str, variable) -> None:
        """Inside the graph, after the optimizer's update: what masked weights learned is kept."""
        for entry in self._entries.get(key, ()):
            entry.gather_update(variable)

    def shadows(self) -> list[tuple[keras.Variable, np.ndarray]]:
        """Every masked variable with what must be added to it for nothing to be masked."""
        found = []
        for key, entries in self._entries.items():
            variable = entries[0].place.variable
            nothing = tf.zeros(variable.shape, variable.dtype)
            found.append((variable, self.lifted(key, nothing).numpy()))
        return found

    def bytes(self) -> int:
        """What the shadows hold."""
        return sum(e.shadow_bytes() for entries in self._entries.values() for e in entries)


class _Masked:
    """The masked positions along one axis of one variable."""

    def __init__(self, place, positions: np.ndarray):
        self.place = place
        self.axis = place.axis
        self.positions = positions
        shape = [1] * len(place.variable.shape)
        shape[place.axis] = place.variable.shape[place.axis]
        keep = np.ones(place.variable.shape[place.axis], np.float32)
        keep[positions] = 0.0
        self.keep = keep.reshape(shape)
        self._shadow = tf.Variable(
            tf.gather(place.variable.value, positions, axis=place.axis),
            trainable=False,
            name="dynhp_shadow",
        )

    def silence(self) -> None:
        variable = self.place.variable
        variable.assign(variable * self.keep)

    def gather_update(self, variable) -> None:
        self._shadow.assign_add(tf.gather(variable, self.positions, axis=self.axis))
        variable.assign(variable * tf.cast(self.keep, variable.dtype))

    def lifted(self, value):
        """`value` plus the shadow at the masked positions, where it holds zeros."""
        order = np.full(value.shape[self.axis], len(self.positions), np.int64)
        order[self.positions] = np.arange(len(self.positions))
        shadow = tf.convert_to_tensor(self._shadow)
        padding = tf.zeros_like(tf.gather(value, [0], axis=self.axis))
        wide = tf.gather(tf.concat([shadow, padding], self.axis), order, axis=self.axis)
        return value + wide

    def shadow_bytes(self) -> int:
        return int(np.prod(self._shadow.shape)) * self._shadow.dtype.size
