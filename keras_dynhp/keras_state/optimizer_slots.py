"""Private facts about the slots of Keras's optimizers: where they are and how they are built."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import keras
import tensorflow as tf
from keras.src.utils.tracking import DotNotTrackScope

from keras_dynhp.keras_state.optimizer import (
    Pairs,
    attributes,
    built_on,
    is_multi,
    optimizer_tree,
    variable_key,
)

__all__ = ["AVERAGES", "Slot", "build_anew", "find_slots", "keep_name"]

# Under which attribute optimizers hold moving averages of the weights (`use_ema=True`).
AVERAGES = "_model_variables_moving_average"

_VARIABLE_TYPES = (keras.Variable, tf.Variable)


@dataclasses.dataclass(frozen=True, eq=False)
class Slot:
    """One variable of an optimizer's state.

    Args:
        optimizer: whose it is.
        place: the attribute it is found under (`"_variables"` when under none), then list
            positions and dictionary keys down to it. In a container with one element for each
            model variable, the model variable's key stands for its position, so places can be
            compared across a rebuild.
        variable: the slot itself.
        of: the model variable it belongs to; None for state of the whole optimizer.
    """

    optimizer: keras.optimizers.Optimizer
    place: tuple
    variable: keras.Variable
    of: keras.Variable | None

    @property
    def attribute(self) -> str:
        """The optimizer's attribute under which the slot is found."""
        return self.place[0]

    @property
    def name(self) -> str:
        """For people: optimizer, attribute, and the path of the model variable."""
        where = self.variable.name if self.of is None else self.of.path
        return f"{self.optimizer.name}.{self.attribute}[{where}]"


def find_slots(optimizer: keras.optimizers.Optimizer) -> list[Slot]:
    """Every variable of one optimizer's own state but its iteration count and learning rate.

    Found by walking the attributes: Keras's own list misses some (what `LossScaleOptimizer` builds
    is not all tracked). Tracked variables under no attribute come last. Inner optimizers are not
    entered.
    """
    models = {id(variable) for variable in built_on(optimizer)}
    slots = [slot for slot in _reachable(optimizer) if id(slot.variable) not in models]
    orphans = _orphans(optimizer)
    return slots + [
        Slot(optimizer, ("_variables", i), orphan, None) for i, orphan in enumerate(orphans)
    ]


def build_anew(optimizer: keras.optimizers.Optimizer, pairs: Pairs) -> None:
    """Build an optimizer again, in place, on the successors of its model variables.

    Its slots are then those of a fresh optimizer on the new variables, in the same order, made
    under the distribution strategy of the old ones; no tracker mentions an old slot or an old
    model variable. What was made outside `build` (iterations, learning rate, a user's own state),
    settings and hooks stay. Inner optimizers keep the successors of the variables they had, and
    variables keep their order, on which saved files rely.

    Args:
        optimizer: what to rebuild; before it is built only its inner optimizers can change.
        pairs: (old, new) for each model variable, in any order.
    """
    nodes = [node for node in optimizer_tree(optimizer) if node.built]
    successors = [_successors(node, pairs) for node in nodes]
    with contextlib.ExitStack() as stack:
        stack.enter_context(_strategy_scope(optimizer))
        for node in nodes:
            stack.enter_context(_forgetting(node))
            stack.enter_context(_same_assignment(node, pairs))
        for node, variables in zip(nodes, successors):
            # Building an outer optimizer builds its inner ones.
            if not node.built:
                node.build(variables)


def keep_name(new: Slot, old: Slot) -> None:
    """Name a slot as the one it continues, where its model variable kept its own name.

    Keras names slots by the scope they are built in and numbers the nameless ones, so building
    again would change both.
    """
    if old.of is None or (new.of is not None and old.of.path == new.of.path):
        new.variable._name = old.variable.name
        new.variable._path = old.variable.path


def _reachable(optimizer) -> list[Slot]:
    """The variables under an optimizer's attributes, each once, model variables included."""
    found: dict[int, Slot] = {}
    for name, value in attributes(optimizer):
        for slot in _walk(optimizer, value, (name,), None):
            found.setdefault(id(slot.variable), slot)
    return list(found.values())


def _walk(optimizer, value, place: tuple, of) -> Iterator[Slot]:
    if isinstance(value, _VARIABLE_TYPES):
        yield Slot(optimizer, place, value, of)
    elif isinstance(value, (list, tuple, dict)):
        items = list(value.items() if isinstance(value, dict) else enumerate(value))
        owners = _owners(optimizer, value) if of is None else {}
        for key, item in items:
            owner = owners.get(key, of)
            step = variable_key(optimizer, owners[key]) if key in owners else key
            yield from _walk(optimizer, item, (*place, step), owner)


def _owners(optimizer, container) -> dict:
    """Position or key in a container -> the model variable it is for, where that can be told."""
    variables = built_on(optimizer)
    if isinstance(container, dict):
        keys = {variable_key(optimizer, variable): variable for variable in variables}
        return {**{variable.path: variable for variable in variables}, **keys}
    return dict(enumerate(variables)) if len(container) == len(variables) else {}


def _orphans(optimizer) -> list[keras.Variable]:
    """Tracked variables under no attribute: a helper object of the user holds them."""
    known = [optimizer._iterations, optimizer._learning_rate, *built_on(optimizer)]
    known += [slot.variable for slot in _reachable(optimizer)]
    known_ids = {id(variable) for variable in known}
    return [variable for variable in optimizer._variables if id(variable) not in known_ids]


@contextlib.contextmanager
def _forgetting(optimizer) -> Iterator[None]:
    """Make an optimizer unbuilt on entering; on leaving, drop what `build` has replaced."""
    before = _reachable(optimizer)
    orphans = _orphans(optimizer)
    containers = {}
    for name, value in attributes(optimizer):
        if not isinstance(value, _VARIABLE_TYPES) and any(_walk(optimizer, value, (), None)):
            # `build` may append to a container made in `__init__`.
            containers[name] = value
            setattr(optimizer, name, _emptied(value))
    tracked = list(optimizer._variables)
    optimizer._trainable_variables = []
    optimizer._trainable_variables_indices = {}
    optimizer.built = False

    yield

    for name, container in containers.items():
        if not any(_walk(optimizer, getattr(optimizer, name), (), None)):
            setattr(optimizer, name, container)  # it was not `build` that had filled it
    alive = {id(slot.variable) for slot in _reachable(optimizer)}
    dead = {id(slot.variable) for slot in before} - alive
    new_orphans = {id(variable) for variable in _orphans(optimizer)} - {id(v) for v in tracked}
    if new_orphans:
        dead |= {id(orphan) for orphan in orphans}
    _set_tracked(optimizer, [v for v in optimizer._variables if id(v) not in dead])


def _emptied(value):
    """A container like this one without its variables."""
    if isinstance(value, dict):
        return {k: _emptied(v) for k, v in value.items() if not isinstance(v, _VARIABLE_TYPES)}
    if isinstance(value, list):
        kept = [v for v in value if v is not None and not isinstance(v, _VARIABLE_TYPES)]
        return [_emptied(v) for v in kept]
    return value


def _set_tracked(optimizer, variables: list[keras.Variable]) -> None:
    """Replace the list of variables that an optimizer saves.

    A fresh list, as removing from it would make TensorFlow's checkpoints refuse the optimizer; and
    made as Keras makes it in `__init__`, so that Keras and TensorFlow track one and the same.
    """
    with DotNotTrackScope():
        optimizer._variables = list(variables)
    tracker = optimizer._tracker
    is_variable, _ = tracker.config["variables"]
    tracker.config["variables"] = (is_variable, optimizer._variables)
    tracker.stored_ids["variables"] = {id(variable) for variable in variables}


def _strategy_scope(optimizer):
    """Slots must be made under the distribution strategy of the variables they belong to."""
    strategy = optimizer._distribution_strategy
    if strategy is tf.distribute.get_strategy():
        return contextlib.nullcontext()
    return strategy.scope()


@contextlib.contextmanager
def _same_assignment(optimizer, pairs: Pairs) -> Iterator[None]:
    """Let a MultiOptimizer give each new variable to the optimizer that had the old one.

    Its own map may be a function that makes a new optimizer at each call.
    """
    if not is_multi(optimizer):
        yield
        return
    had = optimizer._var_to_optimizer_idx
    own_map = optimizer._optimizer_map
    by_key = {
        variable_key(optimizer, new): optimizer.optimizers[had[variable_key(optimizer, old)]]
        for old, new in pairs
        if variable_key(optimizer, old) in had
    }
    optimizer._optimizer_map = lambda variable: by_key[variable_key(optimizer, variable)]
    try:
        yield
    finally:
        optimizer._optimizer_map = own_map


def _successors(optimizer, pairs: Pairs) -> list[keras.Variable]:
    by_key = {variable_key(optimizer, old): new for old, new in pairs}
    return [by_key[variable_key(optimizer, variable)] for variable in built_on(optimizer)]
