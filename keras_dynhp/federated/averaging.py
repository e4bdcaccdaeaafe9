"""Averages over clients, some of which have only a part of the network."""

from __future__ import annotations

import math

import numpy as np

from keras_dynhp.federated.layout import Indices, Layout

__all__ = ["Average"]


class Average:
    """Averages weighted by example counts; a client counts only where it has neurons.

    Where no client has a neuron, the server's own values stay (Diao et al., HeteroFL, arXiv
    2010.01264, for parts chosen by worth rather than by position).

    Args:
        layout: of the full network.
        whole: the part that the server's network is.
        own: its weights.
    """

    def __init__(self, layout: Layout, whole: np.ndarray, own: list[np.ndarray]):
        self.examples = 0
        self._layout, self._whole, self._own = layout, whole, own
        self._sums = [np.zeros(value.shape) for value in own]
        self._counts = [np.zeros(value.shape) for value in own]
        self._score_sums = np.zeros(layout.neurons)
        self._score_counts = np.zeros(layout.neurons)
        self._places: dict[bytes, list[Indices]] = {}

    def add(
        self, part: np.ndarray, weights: list[np.ndarray], scores: np.ndarray | None, examples: int
    ) -> None:
        """Add what a client has learned.

        Args:
            part: which neurons it has.
            weights: of that part.
            scores: one for each of its neurons, or None.
            examples: how many it has learned from.
        """
        key = part.tobytes()
        if key not in self._places:
            self._places[key] = self._layout.places(part, self._whole)
        self.examples += examples
        for total, count, value, places in zip(
            self._sums, self._counts, weights, self._places[key]
        ):
            where = np.ix_(*(places.get(a, np.arange(d)) for a, d in enumerate(total.shape)))
            total[where] += float(examples) * value
            count[where] += examples
        if scores is not None:
            self._score_sums[part] += float(examples) * scores
            self._score_counts[part] += examples

    def weights(self) -> list[np.ndarray]:
        """The new weights of the server's network.

        Raises:
            ValueError: if they are not finite.
        """
        result = []
        for own, total, count in zip(self._own, self._sums, self._counts):
            mean = np.divide(total, count, out=own.astype(float), where=count > 0)
            result.append(mean.astype(own.dtype))
        if not all(math.isfinite(value.sum(dtype=float)) for value in result):
            raise ValueError("The average of the clients' weights is not finite.")
        return result

    def scores(self, otherwise: np.ndarray) -> np.ndarray:
        """The mean score of each neuron; `otherwise` where no client has it."""
        counts = self._score_counts
        return np.divide(self._score_sums, counts, out=otherwise.copy(), where=counts > 0)
