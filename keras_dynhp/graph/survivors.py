"""Which units of a trace stay."""

from __future__ import annotations

import numpy as np


class Survivors:
    """Answers, for a vector of labels, which positions stay. Fixed positions always do."""

    def __init__(self, alive: np.ndarray):
        self.alive = np.asarray(alive, dtype=bool)

    def mask(self, vector: np.ndarray) -> np.ndarray:
        """For every position, whether it stays."""
        if not len(self.alive):
            return np.ones(np.shape(vector), bool)
        return (vector < 0) | self.alive[np.maximum(vector, 0)]

    def keep(self, vector: np.ndarray) -> np.ndarray:
        """The positions that stay, in order."""
        return np.flatnonzero(self.mask(vector))

    def count(self, vector: np.ndarray) -> int:
        """How many positions stay."""
        return int(self.mask(vector).sum())
