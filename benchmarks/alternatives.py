"""Parts that the method does without; kept here so that the ablation can be repeated."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from keras_dynhp.criteria.criterion import Magnitude, summed
from keras_dynhp.keras_state.optimizer import variable_key
from keras_dynhp.pruning.engine import Engine
from keras_dynhp.pruning.fading import Fading
from keras_dynhp.pruning.gates import GateMeter


class Scale(Magnitude):
    """The squared scale of the batch normalization behind a neuron, as a share of its group's.

    As in network slimming (Liu et al. 2017, arXiv 1708.06519), without its penalty. Where nothing
    is normalized, magnitude.
    """

    def score(self, group, gates):
        """The scores of one group."""
        scales = [place for place in group.places if place.variable.name == "gamma"]
        if not scales:
            return super().score(group, gates)
        squares = [np.square(np.asarray(place.variable, np.float64)) for place in scales]
        total = sum(summed(place, s, group.size) for place, s in zip(scales, squares))
        return total / (total.sum() + 1e-30)


class EngineWithoutTrials(Engine):
    """What is due goes at once, at the end of the interval in which it came to be due."""

    def mask_next(self, fraction: float, pace: float = 1.0) -> None:
        """Nothing is masked."""

    def _is_on_trial(self, name: str) -> np.ndarray:
        return np.ones(self.groups[name].size, bool)


class FeedbackMasks(Fading):
    """Masks that are zero at once; behind them weights go on learning (DPF, arXiv 2006.07253).

    Updates of masked weights gather in a shadow, and gates are scored by the weights behind the
    mask. What survives comes back with what it has learned.
    """

    current: FeedbackMasks | None = None

    def __init__(self, groups, masks, optimizer, steps):
        super().__init__(groups, masks, optimizer, steps)
        self._shadows = {}
        for variable, values, where in super().originals():
            weights = np.array(variable)
            before = np.zeros_like(weights)
            before[where] = values
            shadow = tf.Variable(before, trainable=False)
            key = variable_key(optimizer, variable)
            self._shadows[key] = (variable, shadow, tf.constant(where))
            variable.assign(np.where(where, 0.0, weights))
        FeedbackMasks.current = self

    def originals(self):
        """What comes back: what was learned behind the mask."""
        shadows = self._shadows.values()
        return [(v, shadow.numpy()[where.numpy()], where.numpy()) for v, shadow, where in shadows]

    def lifted(self, key, weights):
        """The weights as if nothing were masked."""
        return weights + self._shadows[key][1] if key in self._shadows else weights

    def after_update(self, key, variable) -> None:
        """The update of masked weights goes to the shadow."""
        if key in self._shadows:
            _, shadow, where = self._shadows[key]
            value = tf.convert_to_tensor(variable)
            shadow.assign_add(tf.where(where, value, 0.0))
            variable.assign(tf.where(where, 0.0, value))


class LiftedGates(GateMeter):
    """Gates on what is behind `FeedbackMasks`."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        # Those that were made just before, if any: of an earlier trial nothing is left to lift.
        self._masks, FeedbackMasks.current = FeedbackMasks.current, None

    def _add(self, key, gradient, weights) -> list:
        return super()._add(
            key, gradient, self._masks.lifted(key, weights) if self._masks else weights
        )
