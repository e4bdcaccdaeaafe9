"""Private facts about Keras's optimizers: how they know variables, nest and update."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

__all__ = [
    "attributes",
    "built_on",
    "hook_update_step",
    "is_multi",
    "move_weight_decay_exclusions",
    "optimizer_tree",
    "variable_key",
]

Pairs = list[tuple[keras.Variable, keras.Variable]]

# What every optimizer keeps beside its slots, under these names.
_BOOKKEEPING = frozenset(
    {
        "_variables",
        "_trainable_variables",
        "_trainable_variables_indices",
        "_iterations",
        "_learning_rate",
    }
)


def variable_key(optimizer: keras.optimizers.Optimizer, variable) -> str:
    """The name under which an optimizer knows a model variable.

    The same for the Keras variable, for the TensorFlow variable in it, and for its component on
    each replica, which is what `update_step` is given. Never used twice in a process.
    """
    return optimizer._var_key(variable)


def built_on(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """The model variables an optimizer was built on, in its order; none before it is built."""
    return list(optimizer._trainable_variables)


def attributes(optimizer: keras.optimizers.Optimizer) -> list[tuple[str, object]]:
    """The attributes that may hold state; `_self_*` are TensorFlow's own notes on the others."""
    return [
        (name, value)
        for name, value in vars(optimizer).items()
        if name not in _BOOKKEEPING and not name.startswith("_self_")
    ]


def optimizer_tree(optimizer: keras.optimizers.Optimizer) -> list[keras.optimizers.Optimizer]:
    """An optimizer and every optimizer inside it (loss scaling, several optimizers), outer first.

    Example:

    >>> outer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(name="inner"))
    >>> [optimizer.name for optimizer in optimizer_tree(outer)][1:]
    ['inner']
    """
    found = [optimizer]
    for outer in found:
        for _, value in attributes(outer):
            for inner in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(inner, keras.optimizers.Optimizer) and not _is_in(inner, found):
                    found.append(inner)
    return found


def is_multi(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether an optimizer gives each variable to one of several: Keras has it since 3.15."""
    return isinstance(optimizer, getattr(keras.optimizers, "MultiOptimizer", ()))


def move_weight_decay_exclusions(optimizer: keras.optimizers.Optimizer, pairs: Pairs) -> None:
    """Exclude the successors of the variables that were excluded from weight decay.

    `exclude_from_weight_decay` is in no config: Keras holds the keys of the excluded variables, a
    pattern for excluded names, and what it decided so far for each key.
    """
    keys = {variable_key(optimizer, old): variable_key(optimizer, new) for old, new in pairs}
    if hasattr(optimizer, "_exclude_from_weight_decay"):
        excluded = optimizer._exclude_from_weight_decay
        optimizer._exclude_from_weight_decay = {keys[key] for key in excluded if key in keys}
    if hasattr(optimizer, "_exclude_from_weight_decay_cache"):
        decided = dict(optimizer._exclude_from_weight_decay_cache)
        optimizer._exclude_from_weight_decay_cache = {}
        optimizer._exclude_from_weight_decay_cache.update(
            {keys[key]: decision for key, decision in decided.items() if key in keys}
        )


def hook_update_step(
    optimizer: keras.optimizers.Optimizer,
    before: Callable | None = None,
    after: Callable | None = None,
    pace: Callable | None = None,
) -> Callable[[], None]:
    """Run own operations around the update of each model variable, inside the train step.

    `before(gradient, variable)` and `after(variable)` become part of the graph that is traced
    next, on every replica. Tensors that `before` returns are computed before the update begins, so
    that what they are made of is given back first. The gradient is the one the optimizer acts on:
    unscaled, summed over replicas, accumulated and clipped; it may be a `tf.IndexedSlices`. The
    variable is a `tf.Variable` (its component on the replica): `variable_key` tells which. Weight
    decay comes before the hook, constraints after it. Variables made under the same strategy may be
    assigned.

    `pace(optimizer, variable)` is asked, when the step is traced, what the learning rate of a
    variable is to be multiplied by; the optimizer is the inner one that updates it.

    The hook is set on the optimizer object (on the inner ones of a wrapper), so configs, copies
    and saved files know nothing of it.

    Args:
        optimizer: what to hook.
        before: called before the update, or None.
        after: called after the update, or None.
        pace: called for a factor of the learning rate, or None.

    Returns:
        A function that takes this hook away; functions traced before go on containing it.

    Raises:
        ValueError: a MultiOptimizer that is not built: its optimizers are not known yet.

    Example:

    >>> variable, gradients = keras.Variable([1.0, 2.0]), []
    >>> optimizer = keras.optimizers.SGD(0.5)
    >>> unhook = hook_update_step(optimizer, before=lambda g, v: gradients.append(g.numpy()))
    >>> optimizer.apply([keras.ops.array([0.1, 0.2])], [variable])
    >>> unhook()
    >>> gradients
    [array([0.1, 0.2], dtype=float32)]
    """
    nodes = optimizer_tree(optimizer)
    for node in nodes:
        if is_multi(node) and not node.built:
            raise ValueError(
                f"The optimizers inside MultiOptimizer {node.name!r} are only known once it is "
                "built. Received: one that is not. Call "
                "`optimizer.build(model.trainable_variables)` first."
            )
    hook = (before, after, pace)
    # A wrapper updates nothing itself.
    leaves = [node for node in nodes if len(optimizer_tree(node)) == 1]
    for leaf in leaves:
        if not isinstance(vars(leaf).get("update_step"), _HookedStep):
            vars(leaf)["update_step"] = _HookedStep(leaf)
        vars(leaf)["update_step"].hooks.append(hook)

    def unhook() -> None:
        for leaf in leaves:
            step = vars(leaf).get("update_step")
            if isinstance(step, _HookedStep):
                step.remove(hook)

    return unhook


class _HookedStep:
    """An optimizer's `update_step` with hooks around it; takes itself away with the last one."""

    def __init__(self, optimizer: keras.optimizers.Optimizer) -> None:
        self.optimizer = optimizer
        self.own = vars(optimizer).get("update_step")  # a user's own patch of the instance
        self.step = optimizer.update_step
        self.hooks: list[tuple] = []

    def __call__(self, gradient, variable, learning_rate):
        first = []
        for before, _, pace in self.hooks:
            if before is not None:
                first.append(before(gradient, variable))
            factor = 1.0 if pace is None else pace(self.optimizer, variable)
            if factor != 1.0:
                learning_rate = learning_rate * factor
        with tf.control_dependencies(tf.nest.flatten([f for f in first if f is not None])):
            result = self.step(gradient, variable, learning_rate)
        for _, after, _ in self.hooks:
            if after is not None:
                after(variable)
        return result

    def remove(self, hook: tuple) -> None:
        self.hooks[:] = [other for other in self.hooks if other is not hook]
        if self.hooks or vars(self.optimizer).get("update_step") is not self:
            return
        del vars(self.optimizer)["update_step"]
        if self.own is not None:
            vars(self.optimizer)["update_step"] = self.own


def _is_in(thing, things) -> bool:
    return any(thing is other for other in things)
