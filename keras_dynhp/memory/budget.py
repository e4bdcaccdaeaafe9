"""Budget: the training memory that must never be exceeded."""

from __future__ import annotations

import keras

from keras_dynhp.errors import BudgetError
from keras_dynhp.memory.estimate import estimate_memory, largest_batch
from keras_dynhp.sizes import format_size, parse_size

# How much an estimate may lie under what is then measured, and still be inside the budget.
MARGIN = 1.05


class Budget:
    """Keeps training inside a number of bytes: says how large a batch may be.

    Before anything is measured the estimate decides, with a margin. Where TensorFlow's allocator
    reports, every epoch's measured peak corrects what is expected of the next: fully where the
    estimate was too low, and by half of the difference where it was too high, since the next
    network and batch are not the measured ones.

    Args:
        limit: bytes, or a string such as `"4MB"`.
    """

    def __init__(self, limit: int | str):
        self.limit = parse_size(limit)
        self.factor = 1.0

    def observe(self, estimated: int, measured: int) -> None:
        """Learn from an epoch: what was estimated, and the peak that was measured."""
        ratio = measured / max(estimated, 1)
        self.factor = ratio if ratio > 1 else (1.0 + ratio) / 2

    def largest_batch(self, model: keras.Model, optimizer=None, maximum: int | None = None) -> int:
        """The largest batch that fits; 0 if none does."""
        return largest_batch(model, int(self.limit / (MARGIN * self.factor)), optimizer, maximum)

    def check(self, model: keras.Model, optimizer=None, smallest: int = 1) -> None:
        """Raise if the model can't be trained in the budget, not even with the smallest batch.

        Raises:
            BudgetError: with what is needed, what was given and what would fit.
        """
        if self.largest_batch(model, optimizer, maximum=smallest) >= smallest:
            return
        estimate = estimate_memory(model, smallest, optimizer)
        needed = int(estimate.total * MARGIN * self.factor) + 1
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
        return {"factor": self.factor}

    def set_state(self, state: dict) -> None:
        """Go on from `get_state`."""
        self.factor = float(state["factor"])
