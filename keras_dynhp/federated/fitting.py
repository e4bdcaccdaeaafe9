"""Which part of a network can be trained in a budget."""

from __future__ import annotations

import keras
import numpy as np

from keras_dynhp.errors import BudgetError
from keras_dynhp.federated.blank import blank_weights
from keras_dynhp.federated.layout import Layout
from keras_dynhp.memory.budget import Budget
from keras_dynhp.memory.estimate import StepMemory
from keras_dynhp.rebuild.clone import clone_model
from keras_dynhp.rebuild.plan import RebuildPlan

__all__ = ["SMALLEST_BATCH", "widths_that_fit"]

# A client that can't train on so many examples at once trains a smaller part of the network:
# smaller batches waste more time than neurons are worth.
SMALLEST_BATCH = 8

# All groups of a part are narrowed to the same share of what they are, in steps of a 32nd.
_SHARES = 32


def widths_that_fit(
    layout: Layout,
    whole: np.ndarray,
    budget: Budget,
    model: keras.Model,
    batch_size: int,
    sample: tuple[int, ...] | None = None,
) -> list[int]:
    """The widths of the largest part of a network that can be trained in a budget.

    Every group keeps the same share of its neurons. What is tried is made without its weights and
    measured on paper.

    Args:
        layout: of the full network.
        whole: the network of which a part is wanted.
        budget: what must hold a training step.
        model: a compiled one, for its optimizer.
        batch_size: the smallest batch that will do.
        sample: the shape of one sample, for lengths that the network leaves open.

    Raises:
        BudgetError: if not even one neuron of each group fits.
    """
    widths = layout.widths(whole)

    def at(share: int) -> list[int]:
        return [max(1, width * share // _SHARES) for width in widths]

    def needed(share: int) -> int:
        plan = layout.plan(layout.narrowed(whole, at(share)))
        return budget.predict(_step_memory(plan, model.optimizer, sample).at(batch_size))

    def fits(share: int) -> bool:
        return needed(share) <= budget.usable

    if fits(_SHARES):
        return widths
    low, high = 0, _SHARES  # low fits (or hasn't been tried), high doesn't
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    if low == 0 and not fits(0):
        raise BudgetError(
            f"With one neuron in each group, a batch of {batch_size} needs {needed(0)} bytes of "
            f"memory, and the budget is {budget.described}.",
            needed(0),
            budget.usable,
        )
    return at(low)


def _step_memory(plan: RebuildPlan, optimizer, sample: tuple[int, ...] | None) -> StepMemory:
    with blank_weights():
        copy = clone_model(plan.groups.trace, plan.survivors, removals=plan.removals).model
    return StepMemory(copy, optimizer, pruning=True, samples=sample and [sample])
