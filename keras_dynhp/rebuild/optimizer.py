"""Optimizer surgery: every slot follows its variable into the smaller network."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_dynhp.keras_state.optimizer import (
    built_on,
    move_weight_decay_exclusions,
    optimizer_tree,
    variable_key,
)
from keras_dynhp.keras_state.optimizer_slots import Slot, build_anew, find_slots, keep_name
from keras_dynhp.rebuild.release import put_value, release_variable
from keras_dynhp.rebuild.transfer import Transfer, take

__all__ = ["OptimizerPlan", "plan_optimizer", "register_slot_rule"]

# (optimizer class, attribute) -> rule; a class inherits the rules of its bases.
_SLOT_RULES: dict[tuple[type, str], Callable[[Transfer], dict[int, np.ndarray]]] = {}


def register_slot_rule(optimizer_class: type, attribute: str) -> Callable:
    """Say how the slots under one attribute of an optimizer follow their variable.

    Needed only for slots that have neither their variable's shape nor a single number, in a list
    with one element for each model variable (or a dictionary keyed by its path).

    Args:
        optimizer_class: the optimizer; its subclasses get the rule too.
        attribute: the attribute that holds the slots.

    Returns:
        A decorator for the rule: it is given the variable's `Transfer` and returns what is kept of
        the slot, a dictionary from the slot's axis to indices.

    Example: a slot with one number for each row of its variable.

    >>> class Rowwise(keras.optimizers.SGD):
    ...     def build(self, variables):
    ...         super().build(variables)
    ...         self.rows = [self.add_variable((v.shape[0],), name="row") for v in variables]
    >>> @register_slot_rule(Rowwise, "rows")
    ... def rows(transfer):
    ...     return {axis: kept for axis, kept in transfer.keep.items() if axis == 0}
    """

    def register(rule):
        _SLOT_RULES[optimizer_class, attribute] = rule
        return rule

    return register


@register_slot_rule(keras.optimizers.Adafactor, "_r")
def _adafactor_rows(transfer: Transfer) -> dict[int, np.ndarray]:
    """Means over the last axis."""
    last = transfer.old.ndim - 1
    return {axis: indices for axis, indices in transfer.keep.items() if axis != last}


@register_slot_rule(keras.optimizers.Adafactor, "_c")
def _adafactor_columns(transfer: Transfer) -> dict[int, np.ndarray]:
    """Means over the last axis but one; the last moves into its place."""
    last = transfer.old.ndim - 1
    return {
        last - 1 if axis == last else axis: indices
        for axis, indices in transfer.keep.items()
        if axis != last - 1
    }


class OptimizerPlan:
    """What `commit` will do to an optimizer; made by `plan_optimizer`, changes nothing itself.

    Attributes:
        optimizer: the optimizer that will be changed in place.
        afresh: names of the slots that cannot follow their variable and will start afresh.
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        transfers: Sequence[Transfer],
        cuts: list[tuple[Slot, dict[int, np.ndarray] | None]],
    ) -> None:
        self.optimizer = optimizer
        self.afresh = [slot.name for slot, keep in cuts if keep is None]
        self._pairs = [(transfer.old, transfer.new) for transfer in transfers]
        self._cuts = cuts
        self._committed = False

    def commit(self) -> None:
        """Carry the plan out.

        Each slot is read, cut and its memory freed before any new one is made, so the
        allocator never holds more than it did before. Slots that start afresh are named in one
        warning.

        Raises:
            ValueError: the plan was carried out before.
        """
        if self._committed:
            raise ValueError(
                f"This plan for optimizer {self.optimizer.name!r} was carried out before and its "
                "old slots are gone. Make a new one with `plan_optimizer`."
            )
        pairs, cuts = self._pairs, self._cuts
        # A plan that is kept must not keep the old network with it.
        self._committed, self._pairs, self._cuts = True, [], []

        kept = _take(self.optimizer, pairs, cuts)
        for node in optimizer_tree(self.optimizer):
            move_weight_decay_exclusions(node, pairs)
        build_anew(self.optimizer, pairs)
        lost = _put(self.optimizer, kept, released={id(slot.variable) for slot, _ in cuts})
        if lost:
            warnings.warn(
                f"It is not known how these slots of {type(self.optimizer).__name__} follow "
                f"variables that became smaller, so they start afresh: {', '.join(lost)}. To keep "
                "them, register a rule with "
                "`keras_dynhp.rebuild.optimizer.register_slot_rule`.",
                stacklevel=2,
            )


def plan_optimizer(
    optimizer: keras.optimizers.Optimizer, transfers: Sequence[Transfer]
) -> OptimizerPlan:
    """Plan how an optimizer moves to the smaller network; nothing is changed before `commit`.

    After `commit` the same optimizer object is built on the successors of its variables. Slots
    are cut like their variables. Everything else is kept: iterations, learning rate or schedule,
    loss scale, moving averages and accumulated gradients (both are slots), variables excluded from
    weight decay, and which optimizer of a `MultiOptimizer` has which variable.

    Args:
        optimizer: the optimizer in use, built or not, wrapped or not.
        transfers: one for each model variable, in any order. The optimizer keeps its own order:
            that of the new model's variables if its layers are in the order of the old one's.

    Returns:
        The plan.

    Raises:
        TypeError: `optimizer` is not a Keras optimizer.
        ValueError: a variable of the optimizer has no transfer, or one has two.

    Example:

    >>> old, new = keras.Variable([1.0, 2.0, 3.0]), keras.Variable([1.0, 3.0])
    >>> optimizer = keras.optimizers.SGD(0.1, momentum=0.5)
    >>> optimizer.apply([keras.ops.array([10.0, 20.0, 30.0])], [old])
    >>> plan_optimizer(optimizer, [Transfer(old, new, keep={0: np.array([0, 2])})]).commit()
    >>> optimizer.momentums[0].numpy()
    array([-1., -3.], dtype=float32)
    >>> int(optimizer.iterations)
    1
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            "`optimizer` must be a `keras.optimizers.Optimizer`, as `model.optimizer` is after "
            f"`compile`. Received: {optimizer} (of type {type(optimizer).__name__})"
        )
    of = _by_old_variable(optimizer, transfers)
    cuts = []
    for node in optimizer_tree(optimizer):
        missing = [v.path for v in built_on(node) if variable_key(optimizer, v) not in of]
        if missing:
            raise ValueError(
                f"Optimizer {node.name!r} was built on variables for which there is no "
                f"transfer: {', '.join(missing)}. Give one for every variable of the model; if "
                "the model was changed after the optimizer was built, compile it again first."
            )
        for slot in find_slots(node):
            transfer = None if slot.of is None else of[variable_key(optimizer, slot.of)]
            cuts.append((slot, _kept_of_slot(slot, transfer)))
    return OptimizerPlan(optimizer, transfers, cuts)


def _by_old_variable(optimizer, transfers) -> dict[str, Transfer]:
    of: dict[str, Transfer] = {}
    for transfer in transfers:
        key = variable_key(optimizer, transfer.old)
        if key in of:
            raise ValueError(
                f"Two transfers start from the variable {transfer.old.path!r}; a variable has one "
                "successor. Received transfers to "
                f"{of[key].new.path!r} and {transfer.new.path!r}."
            )
        of[key] = transfer
    return of


def _kept_of_slot(slot: Slot, transfer: Transfer | None) -> dict[int, np.ndarray] | None:
    """What is kept of a slot, axis by axis; None where that is not known."""
    shape = tuple(slot.variable.shape)
    if transfer is None or transfer.whole or math.prod(shape) == 1:
        return {}
    for optimizer_class in type(slot.optimizer).__mro__:
        rule = _SLOT_RULES.get((optimizer_class, slot.attribute))
        if rule is not None:
            return _checked(rule(transfer), slot, transfer)
    return transfer.keep if shape == tuple(transfer.old.shape) else None


def _checked(keep: dict[int, np.ndarray], slot: Slot, transfer: Transfer) -> dict:
    shape = tuple(slot.variable.shape)
    for axis, indices in keep.items():
        if not (0 <= axis < len(shape) and np.max(indices, initial=-1) < shape[axis]):
            raise ValueError(
                f"The slot rule for {type(slot.optimizer).__name__}.{slot.attribute} keeps indices "
                f"{indices} along axis {axis} of slot {slot.name!r}, which has shape {shape} (its "
                f"variable has shape {tuple(transfer.old.shape)}). Correct the rule given to "
                "`register_slot_rule`."
            )
    return keep


def _take(optimizer, pairs, cuts) -> dict[tuple, tuple[Slot, np.ndarray]]:
    """Every slot and what survives of it, by its place after the rebuild; frees the slots."""
    successor = {variable_key(optimizer, a): variable_key(optimizer, b) for a, b in pairs}
    kept = {}
    for slot, keep in cuts:
        if keep is not None:
            place = tuple(successor.get(step, step) for step in slot.place)
            kept[id(slot.optimizer), place] = (slot, take(slot.variable.numpy(), keep))
        release_variable(slot.variable)
    return kept


def _put(optimizer, kept, released: set[int]) -> list[str]:
    """Fill the new slots; returns the names of those for which nothing was kept."""
    lost = []
    for node in optimizer_tree(optimizer):
        for slot in find_slots(node):
            old, value = kept.pop((id(node), slot.place), (None, None))
            if old is not None and value.shape == tuple(slot.variable.shape):
                put_value(slot.variable, value)
                keep_name(slot, old)
                continue
            if id(slot.variable) in released:  # made outside `build`, so it is still the same
                put_value(slot.variable, tf.zeros(slot.variable.shape, slot.variable.dtype))
            lost.append(slot.name)
    return lost
