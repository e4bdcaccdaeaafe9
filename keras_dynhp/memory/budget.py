"""Budget: the training memory that must never be exceeded."""

from __future__ import annotations

import keras

from keras_dynhp.errors import BudgetError
from keras_dynhp.memory import measure
from keras_dynhp.memory.estimate import MemoryEstimate, StepMemory, largest_that
from keras_dynhp.sizes import format_size, parse_size

# How much an estimate may lie under what is then measured (a pipeline holds now more, now less).
MARGIN = 1.12

# Batches that the input pipeline holds beside the one in use, until a measurement tells; and the
# least to reckon with whatever was measured. The allocator may count a large tensor twice, and
# batches are joined to a larger one beside their parts: where LeNet-300-100 filled a budget with
# larger and larger batches (11 runs of 20 epochs), an epoch's peak was 0.7 batches above the
# estimate in the median and 1.1 and 1.6 in the unluckiest, of which the margin covers the rest.
PIPELINE_BATCHES = 3.0
FEWEST_BATCHES = 1.0

# How much of a pool that may not grow can be in use: what is free lies in pieces.
POOL_SHARE = 0.85

# What was measured may have been luck: where it lies below this part of the estimate, the estimate
# is lowered only so far that the measurement would be this part of it.
LUCK = 0.8

# Epochs of which the unluckiest counts, and how far beyond what was measured it is trusted.
_EPOCHS = 3
_REACH = 2


class Budget:
    """Keeps training inside a number of bytes: says how large a batch may be.

    What a step needs is estimated, and what the input pipeline holds beside it is counted in
    batches of input: three at first. Where TensorFlow's allocator reports, every epoch's measured
    peak corrects both. The pipeline's share rises at once where the peak was higher than expected,
    and falls by half, though one batch is always reckoned with. The step's share is lowered where
    the estimate was far too high, by what the unluckiest of the last epochs allows, and only for
    steps up to twice as large as one measured: a small batch says little about a large one.

    Args:
        limit: bytes, or a string such as `"4MB"`.
    """

    def __init__(self, limit: int | str):
        self.limit = parse_size(limit)
        self.pipeline_batches = PIPELINE_BATCHES
        self._ratios: list[float] = []
        self._measured_up_to = 0

    def observe(self, estimate: MemoryEstimate, measured: int, forget: float = 0.5) -> None:
        """Learn from an epoch.

        Args:
            estimate: of a step.
            measured: the peak, in bytes.
            forget: how much of what earlier epochs showed is given up where this one needed less.
        """
        seen = max(0.0, (measured - estimate.total) / max(estimate.inputs, 1))
        faded = self.pipeline_batches + forget * (seen - self.pipeline_batches)
        self.pipeline_batches = max(seen, faded)
        self._ratios = [*self._ratios, measured / max(estimate.total, 1)][-_EPOCHS:]
        self._measured_up_to = max(self._measured_up_to, estimate.total)

    def predict(self, estimate: MemoryEstimate) -> int:
        """The peak to expect, in bytes, with its margin."""
        known = 1.0
        if estimate.total <= _REACH * self._measured_up_to:
            known = min(1.0, max(self._ratios) / LUCK)
        waiting = max(self.pipeline_batches, known * FEWEST_BATCHES)
        return int(MARGIN * (known * estimate.total + waiting * estimate.inputs)) + 1

    def largest_batch(self, model: keras.Model, optimizer=None, maximum: int | None = None) -> int:
        """The largest batch that fits; 0 if none does."""
        memory = StepMemory(model, optimizer, pruning=True)
        usable = min(self.limit, POOL_SHARE * (measure.hard_limit() or self.limit / POOL_SHARE))
        return largest_that(lambda batch: self.predict(memory.at(batch)) <= usable, maximum)

    def check(self, model: keras.Model, optimizer=None, smallest: int = 1) -> None:
        """Raise if the model can't be trained in the budget, not even with the smallest batch.

        Raises:
            BudgetError: with what is needed, what was given and what would fit.
        """
        estimate = StepMemory(model, optimizer, pruning=True).at(smallest)
        needed = self.predict(estimate)
        if needed <= self.limit:
            return
        largest, size = max(
            ((name, n) for name, n in estimate.to_dict().items() if name != "total"),
            key=lambda item: item[1],
        )
        raise BudgetError(
            f"Training {model.name!r} with a batch of {smallest} needs {format_size(needed)} "
            f"({needed} bytes), and the budget is {format_size(self.limit)} ({self.limit} bytes). "
            f"The largest part is {largest} ({format_size(size)}). A budget of {needed} bytes "
            "would fit; so would a smaller network or an optimizer with fewer slots.",
            needed,
            self.limit,
        )

    def get_state(self) -> dict:
        """What a resumed run needs to know, as plain values."""
        return {
            "pipeline_batches": self.pipeline_batches,
            "ratios": list(self._ratios),
            "measured_up_to": self._measured_up_to,
        }

    def set_state(self, state: dict) -> None:
        """Go on from `get_state`."""
        self.pipeline_batches = float(state["pipeline_batches"])
        self._ratios = [float(ratio) for ratio in state["ratios"]]
        self._measured_up_to = int(state["measured_up_to"])
