"""Budget: the training memory that must never be exceeded."""

from __future__ import annotations

import math

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
# ... where an epoch is a client's round: that none of its few steps was unlucky says little.
_ROUNDS = 10


class Budget:
    """Keeps training inside a number of bytes: says how large a batch may be.

    What a step needs is estimated, and what the input pipeline holds beside it is counted in
    batches of input: three at first. Where TensorFlow's allocator reports, every epoch's measured
    peak corrects both. The pipeline's share rises at once where the peak was higher than expected,
    and falls by half, though one batch is always reckoned with. The step's share is lowered
    where the estimate was far too high, by what the unluckiest of the last epochs allows. Neither
    is believed beyond twice what was measured: a small batch says little about a large one.

    Args:
        limit: bytes, or a string such as `"4MB"`.
        pipeline: whether what exceeds an estimate are batches that wait in an input pipeline. If
            not, they are cut when they are needed, and it is the step itself that takes so much
            more than estimated: the unluckiest of the last ten rounds counts.
    """

    def __init__(self, limit: int | str, pipeline: bool = True):
        self.limit = parse_size(limit)
        self.pipeline_batches = PIPELINE_BATCHES
        self._pipeline = pipeline
        self._lowest = 0.0  # of what is believed, in estimates
        self._ratios: list[float] = []
        self._measured_up_to = 0  # bytes of a step
        self._inputs_up_to = 0  # bytes of its batch

    @property
    def usable(self) -> int:
        """Bytes to plan with: the limit, or what can be had of a pool that may not grow."""
        return int(min(self.limit, POOL_SHARE * (measure.hard_limit() or math.inf)))

    def observe(self, estimate: MemoryEstimate, measured: int) -> None:
        """Learn from an epoch: what was estimated, and the peak that was measured, in bytes."""
        if self._pipeline:
            seen = max(0.0, (measured - estimate.total) / max(estimate.inputs, 1))
            self.pipeline_batches = max(seen, (self.pipeline_batches + seen) / 2)
        count = _EPOCHS if self._pipeline else _ROUNDS
        self._ratios = [*self._ratios, measured / max(estimate.total, 1)][-count:]
        self._measured_up_to = max(self._measured_up_to, estimate.total)
        self._inputs_up_to = max(self._inputs_up_to, estimate.inputs)

    def predict(self, estimate: MemoryEstimate) -> int:
        """The peak to expect, in bytes, with its margin."""
        known = 1.0
        if estimate.total <= _REACH * self._measured_up_to:
            known = min(1.0, max(self._lowest, max(self._ratios) / LUCK))
        waiting = max(self.pipeline_batches, known * FEWEST_BATCHES)
        if estimate.inputs > _REACH * self._inputs_up_to:
            waiting = max(waiting, PIPELINE_BATCHES)
        if not self._pipeline:
            known = max([known, *self._ratios])
        return int(MARGIN * (known * estimate.total + waiting * estimate.inputs)) + 1

    def largest_batch(self, model: keras.Model, optimizer=None, maximum: int | None = None) -> int:
        """The largest batch that fits; 0 if none does."""
        return self.largest_of(StepMemory(model, optimizer, pruning=True), maximum)

    def largest_of(self, memory: StepMemory, maximum: int | None = None) -> int:
        """As `largest_batch`, of a step that is written down already."""
        if not memory.is_foreseen:
            # XLA's kernels for twice the batch may take four times as much: what is measured beyond
            # an estimate is the step itself, and less is not believed.
            self._pipeline, self._lowest = False, 1.0
        usable = self.usable
        return largest_that(lambda batch: self.predict(memory.at(batch)) <= usable, maximum)

    def check(
        self, model: keras.Model, smallest: int = 1, memory: StepMemory | None = None
    ) -> None:
        """Raise if the model can't be trained in the budget, not even with the smallest batch.

        Args:
            model: that is to be trained, with its own optimizer.
            smallest: the smallest batch there may be.
            memory: of the model's step, where it is written down already.

        Raises:
            BudgetError: with what is needed, what was given and what would fit.
        """
        memory = memory or StepMemory(model, pruning=True)
        estimate = memory.at(smallest)
        needed = self.predict(estimate)
        usable = self.usable
        if needed <= usable:
            return
        largest, size = max(
            ((name, n) for name, n in estimate.to_dict().items() if name != "total"),
            key=lambda item: item[1],
        )
        raise BudgetError(
            f"Training {model.name!r} with a batch of {smallest} needs {format_size(needed)} "
            f"({needed} bytes), and the budget is {self.described}. "
            f"The largest part is {largest} ({format_size(size)}). {self.remedy(needed)}; so "
            "would a smaller network or an optimizer with fewer slots.",
            needed,
            usable,
        )

    @property
    def described(self) -> str:
        """The budget in words."""
        text = f"{format_size(self.limit)} ({self.limit} bytes)"
        if self.usable < self.limit:
            text += f", of which {self.usable} can be had: TensorFlow's allocator is capped"
        return text

    def remedy(self, needed: int) -> str:
        """What budget, or what cap of the allocator, would hold so many bytes."""
        if self.usable == self.limit:
            return f"A budget of {needed} bytes would fit"
        pool = math.ceil(needed / POOL_SHARE)
        return f"A budget of {needed} bytes in an allocator with {pool} bytes would fit"

    def get_state(self) -> dict:
        """What a resumed run needs to know, as plain values."""
        return {
            "pipeline_batches": self.pipeline_batches,
            "ratios": list(self._ratios),
            "measured_up_to": self._measured_up_to,
            "inputs_up_to": self._inputs_up_to,
        }

    def set_state(self, state: dict) -> None:
        """Go on from `get_state`."""
        self.pipeline_batches = float(state["pipeline_batches"])
        self._ratios = [float(ratio) for ratio in state["ratios"]]
        self._measured_up_to = int(state["measured_up_to"])
        self._inputs_up_to = int(state["inputs_up_to"])
