"""Masks of attention that int8 can hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_dynhp.keras_state.masking import hidden_by

# A hidden position weighs exp(-10), 0.00005, of what the least of the others does. Each unit more
# makes the quantization of all scores coarser.
_BELOW = 10.0
# On so many samples the scores are looked at.
_SAMPLES = 50


class Masks:
    """Hides positions a little below the least score that is seen there, not at -1e9.

    With -1e9 among them, one of the 256 steps of int8 is as wide as all scores together: attention
    is no more than a mean. Scores below the least that calibration saw are clipped in any case.
    """

    def __init__(self):
        self._least: list[float] = []
        self._call = 0

    def look_at(self, function: Callable, samples: Sequence[Sequence[np.ndarray]]) -> None:
        """Run a model on samples of one, and remember the least score of each call of a softmax."""

        def look(kept, scores):
            values = np.where(np.broadcast_to(kept, scores.shape), scores, np.inf)
            self._least += [np.inf] * (self._call + 1 - len(self._least))
            self._least[self._call] = min(self._least[self._call], float(values.min()))
            self._call += 1
            return keras.ops.where(kept, scores, -1e9)

        for inputs in samples[:_SAMPLES]:
            self._call = 0
            with hidden_by(look):
                function(*inputs)

    def applied(self, function: Callable) -> Callable:
        """A function that runs the model with positions hidden as this knows."""

        def run(*inputs):
            self._call = 0
            with hidden_by(self._hide):
                return function(*inputs)

        return run

    def _hide(self, kept, scores):
        number = -1e9
        if self._call < len(self._least):
            least = self._least[self._call]
            number = (least if np.isfinite(least) else 0.0) - _BELOW
        self._call += 1
        return keras.ops.where(kept, scores, number)

    @property
    def any(self) -> bool:
        """Whether, so far, a softmax with a mask was called."""
        return self._call > 0
