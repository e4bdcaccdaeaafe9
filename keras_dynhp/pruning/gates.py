"""Gate gradients, read off the gradients that training has anyway."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from keras_dynhp.graph.groups import ChannelGroup, ChannelGroups, Place
from keras_dynhp.keras_state.optimizer import variable_key


def gate_places(group: ChannelGroup) -> list[Place]:
    """Where a group's gates are read off: at its readers, or its makers if no weights read it."""
    readers = [place for place in group.places if place.role == "in"]
    makers = [place for place in group.places if place.role == "out"]
    return list(readers or makers or group.places)


class GateMeter:
    """Running means of squared gate gradients, kept inside the training graph.

    The derivative of the loss by a gate on a neuron is the sum of weight times gradient over the
    weights that read the neuron. Each training step adds up those sums over all readers of a
    neuron, squares them, and averages them with momentum.

    Args:
        groups: the model's channel groups.
        optimizer: the model's optimizer, built.
        momentum: weight of the past, per step.
        start: means to go on from, one array for each group's name.
        steps: how many steps those means are of; the fewer, the sooner new steps outweigh them.
    """

    def __init__(
        self, groups: ChannelGroups, optimizer, momentum: float = 0.99, start=None, steps=0
    ):
        self.momentum = momentum
        self._names = [group.name for group in groups]
        self._offsets = np.concatenate([[0], np.cumsum([group.size for group in groups])])
        self._places: dict[str, list[tuple[int, np.ndarray]]] = {}
        for offset, group in zip(self._offsets, groups):
            for place in gate_places(group):
                flat = np.where(place.index >= 0, place.index + offset, -1)
                key = variable_key(optimizer, place.variable)
                self._places.setdefault(key, []).append((place.axis, flat))
        total = int(self._offsets[-1])
        first = np.zeros(total, np.float32)
        if start is not None:
            first = np.concatenate([start[name] for name in self._names]).astype(np.float32)
        self._gate = tf.Variable(tf.zeros(total), trainable=False, name="dynhp_gate")
        self._mean = tf.Variable(first, trainable=False, name="dynhp_gate_mean")
        self._steps = tf.Variable(float(steps), trainable=False, name="dynhp_gate_steps")
        self._seen: dict[str, set[str]] = {}

    def read(self, key: str, gradient, variable) -> list[tf.Tensor]:
        """Inside the graph: add one variable's part.

        Returns:
            Small tensors, for which all that is large has been read.
        """
        self._begin_step(key, variable)
        return self._add(key, gradient, tf.convert_to_tensor(variable))

    def _add(self, key: str, gradient, weights) -> list[tf.Tensor]:
        if key not in self._places:
            return []
        read = []
        product = tf.cast(weights * tf.convert_to_tensor(gradient), tf.float32)
        for axis, flat in self._places[key]:
            others = [a for a in range(len(weights.shape)) if a != axis]
            along = tf.reduce_sum(product, others) if others else product
            read.append(along)
            inside = np.flatnonzero(flat >= 0)
            if len(inside) < len(flat):
                along = tf.gather(along, inside)
            # Added whole: on a variable of several replicas nothing can be scattered.
            self._gate.assign_add(tf.scatter_nd(flat[inside][:, None], along, self._gate.shape))
        return read

    def _begin_step(self, key: str, variable) -> None:
        """At the first variable of a step, fold the last step's sums into the means.

        A variable met again means that a new step is being traced (on this replica).
        """
        seen = self._seen.setdefault(variable.device, set())
        if not seen or key in seen:
            seen.clear()
            self._fold()
        seen.add(key)

    def _fold(self) -> None:
        square = tf.square(self._gate)
        # The first step has nothing to fold: its sums are zero and it does not count.
        counts = tf.cast(tf.reduce_any(square > 0), tf.float32)
        self._steps.assign_add(counts)
        rate = tf.maximum(1.0 - self.momentum, 1.0 / tf.maximum(self._steps, 1.0)) * counts
        self._mean.assign_add(rate * (square - self._mean))
        self._gate.assign(tf.zeros_like(self._gate))

    def means(self) -> dict[str, np.ndarray]:
        """The running means of all groups by name, the last step included."""
        self._fold()
        values = self._mean.numpy()
        return {
            name: values[start:stop]
            for name, start, stop in zip(self._names, self._offsets, self._offsets[1:])
        }

    @property
    def steps(self) -> int:
        """How many steps have been averaged."""
        return int(self._steps.numpy())
