"""Batch rules: how large the next epoch's batch should be."""

from __future__ import annotations

import math
from dataclasses import dataclass

import keras

from keras_dynhp.batching.learning_rate import SCALINGS

# An epoch keeps at least this many steps when a rule enlarges the batch: fewer updates cost more
# accuracy than steadier gradients bring. 784-300-100-10 on MNIST, 20 epochs, 10 times fewer
# parameters, validation, mean of 3 seeds: 97.96% at a batch of 128 (422 steps), 97.89% with batches
# that grow to 180 (300 steps), 97.56% to 540 (100 steps).
FEWEST_STEPS = 300


@dataclass(frozen=True)
class BatchContext:
    """What a batch rule may look at, at the end of an epoch.

    Attributes:
        current: the batch size of the epoch that ended.
        requested: the batch size that `fit` was given.
        largest: the largest batch that fits the budget; None without a budget.
        num_samples: samples in an epoch, None where unknown.
        loss: the epoch's mean training loss.
        learning_rate: the learning rate now.
        variance: trace of the covariance of one sample's gradient, in the optimizer's own metric
            (see `gradient_variance`); None where the optimizer does not tell.
    """

    current: int
    requested: int
    largest: int | None
    num_samples: int | None
    loss: float
    learning_rate: float
    variance: float | None


@keras.saving.register_keras_serializable(package="keras_dynhp")
class BatchRule:
    """Chooses the batch size of the next epoch; whatever it says, what fits is the most.

    Subclass and override `propose`.

    Args:
        learning_rate: what happens to the learning rate when the batch grows by a factor k:
            `"none"`, `"linear"` (times k) or `"sqrt"` (times the root of k).

    Raises:
        ValueError: for another `learning_rate`.
    """

    def __init__(self, learning_rate: str = "none"):
        if learning_rate not in SCALINGS:
            raise ValueError(
                f"`learning_rate` must be one of {', '.join(map(repr, SCALINGS))}. Received: "
                f"{learning_rate!r}"
            )
        self.learning_rate = learning_rate

    def propose(self, context: BatchContext) -> float:
        """The batch size this rule would like, before any limit."""
        raise NotImplementedError("Override `propose` in a subclass of BatchRule.")

    def __call__(self, context: BatchContext) -> int:
        """The batch size of the next epoch: the proposal within its limits.

        Never below what was requested or half of the current batch, never above twice the current
        batch, nor so large that an epoch has fewer than 300 steps (or than with what was
        requested); and, above all, never more than fits.

        Raises:
            ValueError: the proposal is not a finite number.
        """
        wanted = self.propose(context)
        if not math.isfinite(wanted):
            raise ValueError(
                f"{type(self).__name__}.propose() must return a finite number of samples. "
                f"Received: {wanted!r} from {context}"
            )
        least = max(context.requested, context.current // 2)
        most = max(2 * context.current, context.requested)
        if context.num_samples is not None:
            most = min(most, max(context.requested, context.num_samples // FEWEST_STEPS))
        wanted = min(max(int(wanted), least), most)
        return max(1, wanted if context.largest is None else min(wanted, context.largest))

    def get_state(self) -> dict:
        """What a resumed run needs to know, as plain values."""
        return {}

    def set_state(self, state: dict) -> None:
        """Go on from `get_state`."""

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return {"learning_rate": self.learning_rate}

    @classmethod
    def from_config(cls, config: dict) -> BatchRule:
        """The rule that `get_config` describes."""
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_dynhp")
class Fixed(BatchRule):
    """The batch size that `fit` was given, or what fits if that is less."""

    def propose(self, context: BatchContext) -> float:
        return context.requested


@keras.saving.register_keras_serializable(package="keras_dynhp")
class Memory(BatchRule):
    """As much as fits the budget: what pruning frees goes to the batch at once.

    Unlike the other rules it is not held to a number of steps per epoch: it is for filling memory.
    """

    def propose(self, context: BatchContext) -> float:
        return context.largest or context.requested

    def __call__(self, context: BatchContext) -> int:
        most = context.largest or context.requested
        if context.num_samples is not None:
            most = min(most, context.num_samples)
        return max(1, most)


@keras.saving.register_keras_serializable(package="keras_dynhp")
class CABS(BatchRule):
    """As large as the noise of the gradient calls for.

    batch = learning_rate * trace(covariance of a sample's gradient) / loss: the batch that gains
    most for its cost, if the step is about one over the curvature and the loss could reach zero
    (Balles, Romero and Hennig, "Coupling Adaptive Batch Sizes with Learning Rates", UAI 2017,
    arXiv 1612.05086). For Adam the covariance is taken in the metric of its own steps: in
    plain coordinates the formula asks for less than one sample at Adam's learning rates. The
    batch is smoothed over epochs and does not shrink again while it fits: a learning rate that
    falls calls for less, but smaller batches would then bring nothing and take longer.

    Where the optimizer does not tell the variance, it is taken to fall as the root of the loss
    does (784-300-100-10 with Adam: as the loss to the power of 0.46 on Fashion-MNIST, 0.62 on
    digits), so that the batch grows as one over that root. A loss that is not positive says
    nothing: the batch stays.

    Args:
        learning_rate: as in `BatchRule`.
        smoothing: weight of the past in the running mean over epochs.
    """

    def __init__(self, learning_rate: str = "none", smoothing: float = 0.5):
        super().__init__(learning_rate)
        if not 0 <= smoothing < 1:
            raise ValueError(f"`smoothing` must lie in [0, 1). Received: {smoothing!r}")
        self.smoothing = smoothing
        self._mean: float | None = None
        self._first_loss: float | None = None

    def propose(self, context: BatchContext) -> float:
        if not 0 < context.loss < math.inf:
            return context.current
        if self._first_loss is None:
            self._first_loss = context.loss
        if context.variance is None:
            wanted = context.requested * math.sqrt(self._first_loss / context.loss)
        else:
            wanted = context.learning_rate * context.variance / context.loss
        past = wanted if self._mean is None else self._mean
        self._mean = self.smoothing * past + (1 - self.smoothing) * wanted
        return max(self._mean, context.current)

    def get_state(self) -> dict:
        return {"mean": self._mean, "first_loss": self._first_loss}

    def set_state(self, state: dict) -> None:
        self._mean, self._first_loss = state["mean"], state["first_loss"]

    def get_config(self) -> dict:
        return {**super().get_config(), "smoothing": self.smoothing}


_NAMES = {"fixed": Fixed, "memory": Memory, "cabs": CABS, "dynamic": CABS}


def get(identifier: str | BatchRule | dict) -> BatchRule:
    """A batch rule from its name, a configuration, or itself.

    Raises:
        ValueError: for an unknown name.
        TypeError: for anything else.
    """
    if isinstance(identifier, str):
        if identifier not in _NAMES:
            raise ValueError(
                f"Unknown batch rule {identifier!r}. Choose from {', '.join(_NAMES)}, or pass a "
                "BatchRule."
            )
        return _NAMES[identifier]()
    if isinstance(identifier, dict):
        return keras.saving.deserialize_keras_object(identifier)
    if not isinstance(identifier, BatchRule):
        raise TypeError(f"`batch_size` must be a name or a BatchRule. Received: {identifier!r}")
    return identifier
