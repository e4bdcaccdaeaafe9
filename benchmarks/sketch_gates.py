"""Gates whose parameters are learned with the weights, for `benchmarks.sketch`."""

from __future__ import annotations

import abc

import numpy as np

BETA_1, BETA_2 = 0.9, 0.999


class LearnedGates(abc.ABC):
    """One random gate for each neuron of a layer; what reads the neuron is multiplied by it.

    Args:
        first: for each parameter, what it is to begin with.
        size: how many neurons.
    """

    def __init__(self, first: tuple[float, ...], size: int):
        self.parameters = [np.full(size, value) for value in first]
        self.means = [np.zeros(size) for _ in first]
        self.squares = [np.zeros(size) for _ in first]
        self.steps = 0

    @abc.abstractmethod
    def sample(self, random) -> np.ndarray:
        """The gates of one step."""

    @abc.abstractmethod
    def gradients(self, upstream: np.ndarray) -> list[np.ndarray]:
        """Of the loss and the price by each parameter; `upstream` is that of the loss by gates."""

    @abc.abstractmethod
    def score(self) -> np.ndarray:
        """What the neurons are worth."""

    @abc.abstractmethod
    def settled(self) -> np.ndarray:
        """The gates once they are random no more."""

    def learn(self, upstream: np.ndarray, rate: float) -> None:
        """One step of Adam."""
        self.steps += 1
        bias_1, bias_2 = 1 - BETA_1**self.steps, 1 - BETA_2**self.steps
        for i, gradient in enumerate(self.gradients(upstream)):
            self.means[i] += (1 - BETA_1) * (gradient - self.means[i])
            self.squares[i] += (1 - BETA_2) * (np.square(gradient) - self.squares[i])
            step = self.means[i] / bias_1 / (np.sqrt(self.squares[i] / bias_2) + 1e-7)
            self.parameters[i] -= rate * step

    def shrink(self, mask: np.ndarray) -> None:
        """Keep the neurons of a mask."""
        for arrays in (self.parameters, self.means, self.squares):
            arrays[:] = [array[mask] for array in arrays]


class HardConcrete(LearnedGates):
    """Gates that are exactly zero or one at times (Louizos et al. 2018, arXiv 1712.01312).

    The price is on the probability that a gate is not zero, which is also the score.
    """

    TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1
    PRICE = 1e-3

    def __init__(self, size: int):
        super().__init__((2.0,), size)

    def sample(self, random):
        (alpha,) = self.parameters
        u = random.uniform(1e-6, 1 - 1e-6, len(alpha))
        self._s = _sigmoid((np.log(u / (1 - u)) + alpha) / self.TEMPERATURE)
        self._stretched = self._s * (self.HIGH - self.LOW) + self.LOW
        return np.clip(self._stretched, 0, 1).astype("float32")

    def gradients(self, upstream):
        between = (self._stretched > 0) & (self._stretched < 1)
        slope = self._s * (1 - self._s) / self.TEMPERATURE * (self.HIGH - self.LOW)
        is_open = self.score()
        return [upstream * between * slope + self.PRICE * is_open * (1 - is_open)]

    def score(self):
        (alpha,) = self.parameters
        return _sigmoid(alpha - self.TEMPERATURE * np.log(-self.LOW / self.HIGH))

    def settled(self):
        (alpha,) = self.parameters
        return np.clip(_sigmoid(alpha) * (self.HIGH - self.LOW) + self.LOW, 0, 1).astype("float32")


class Relevance(LearnedGates):
    """Normal gates that are paid for what they tell (Dai et al. 2018, arXiv 1802.10399).

    The price is log(1 + mean^2 / variance) / 2 for each, which is also the score.
    """

    PRICE = 1e-4

    def __init__(self, size: int):
        super().__init__((1.0, -4.0), size)

    def sample(self, random):
        mean, log_variance = self.parameters
        self._noise = random.standard_normal(len(mean)) * np.exp(log_variance / 2)
        return (mean + self._noise).astype("float32")

    def gradients(self, upstream):
        mean, log_variance = self.parameters
        both = np.square(mean) + np.exp(log_variance)
        by_variance = upstream * self._noise / 2 - self.PRICE * np.square(mean) / both / 2
        return [upstream + self.PRICE * mean / both, by_variance]

    def score(self):
        mean, log_variance = self.parameters
        return np.log1p(np.square(mean) * np.exp(-log_variance)) / 2

    def settled(self):
        return self.parameters[0].astype("float32")


GATES = {"l0": HardConcrete, "relevance": Relevance}


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
