"""Budget: the training memory that must never be exceeded."""

from __future__ import annotations

import keras

from keras_dynhp.errors import BudgetError
from keras_dynhp.memory.estimate import MemoryEstimate, StepMemory, estimate_memory
from keras_dynhp.sizes import format_size, parse_size

# How much an estimate may lie under what is then measured (a pipeline holds now more, now less).
MARGIN = 1.12

# Batches that the input pipeline holds beside the one in use, until a measurement tells.
PIPELINE_BATCHES = 3.0

# No larger batch is looked for where nothing else limits it.
LARGEST = 2**20


class Budget:
    """Keeps training inside a number of bytes: says how large a batch may be.

    What a step needs is estimated, and what the input pipeline holds beside it is counted in
    batches of input: three at first. Where TensorFlow's allocator reports, every epoch's measured
    peak corrects that count, at once where it was too low and by half where it was too high, since
    the next network and batch are not the measured ones.

    Args:
        limit: bytes, or a string such as `"4MB"`.
    """

    def __init__(self, limit: int | str):
        self.limit = parse_size(limit)
        self.pipeline_batches = PIPELINE_BATCHES

    def observe(self, estimate: MemoryEstimate, measured: int) -> None:
        """Learn from an epoch: what was estimated, and the peak that was measured, in bytes."""
        seen = max(0.0, (measured - estimate.total) / max(estimate.inputs, 1))
        self.pipeline_batches = max(seen, (self.pipeline_batches + seen) / 2)

    def predict(self, estimate: MemoryEstimate) -> int:
        """The peak to expect, in bytes, with its margin."""
        return int(MARGIN * (estimate.total + self.pipeline_batches * estimate.inputs)) + 1

    def largest_batch(self, model: keras.Model, optimizer=None, maximum: int | None = None) -> int:
        """The largest batch that fits; 0 if none does."""
        memory = StepMemory(model, optimizer)
        low, high = 0, maximum or LARGEST
        while low < high:
            middle = (low + high + 1) // 2
            if self.predict(memory.at(middle)) <= self.limit:
                low = middle
            else:
                high = middle - 1
        return low

    def check(self, model: keras.Model, optimizer=None, smallest: int = 1) -> None:
        """Raise if the model can't be trained in the budget, not even with the smallest batch.

        Raises:
            BudgetError: with what is needed, what was given and what would fit.
        """
        if self.largest_batch(model, optimizer, maximum=smallest) >= smallest:
            return
        estimate = estimate_memory(model, smallest, optimizer)
        needed = self.predict(estimate)
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
        """What a resumed run needs to know."""
        return {"pipeline_batches": self.pipeline_batches}

    def set_state(self, state: dict) -> None:
        """Go on from `get_state`."""
        self.pipeline_batches = float(state["pipeline_batches"])
