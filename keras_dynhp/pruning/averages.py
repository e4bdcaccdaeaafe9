"""Moving averages of weights, where the optimizer keeps them (`use_ema=True`)."""

from __future__ import annotations

from keras_dynhp.keras_state.optimizer import optimizer_tree, variable_key
from keras_dynhp.keras_state.optimizer_slots import AVERAGES, find_slots
from keras_dynhp.pruning.fading import Originals


def averages_of(optimizer, originals: Originals) -> Originals:
    """What to restore in the averages of weights that come back from a trial.

    A trial makes weights smaller step by step and their average with them. A weight that comes back
    has not moved in between, as it were, so its average is what it was: the weight itself.
    """
    slots = {
        variable_key(optimizer, slot.of): slot.variable
        for node in optimizer_tree(optimizer)
        for slot in find_slots(node)
        if slot.attribute == AVERAGES and slot.of is not None
    }
    keyed = [(variable_key(optimizer, variable), *rest) for variable, *rest in originals]
    return [(slots[key], *rest) for key, *rest in keyed if key in slots]
