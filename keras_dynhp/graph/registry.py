"""Which rule follows channels through which operation."""

from __future__ import annotations

from collections.abc import Callable

import keras

from keras_dynhp.keras_state import graph as ks

_LAYER_RULES: dict[type, Callable] = {}
_OPERATION_RULES: dict[str, Callable] = {}
_KEEPS_ZERO: dict[type | str, Callable | None] = {}
# What a subclass may define for itself without computing something else than its base.
_OPENED = "write its call() as a graph with to_functional, where it can be"
_HARMLESS = {"get_config", "from_config", "compute_output_shape", "compute_output_spec"}


def register_rule(layer_class: type, rule: Callable | None = None) -> Callable:
    """Teach the channel tracing a layer class, as a decorator or a plain call.

    A rule is a function of one `Call` (`call.layer`, `call.inputs`, `call.read`, `call.produce`,
    `call.label`, `call.resize`, `call.along`, `call.barrier`, ...) that returns the labels of the
    layer's output. It says what the layer reads and makes, which axis of which variable holds
    which neurons, and which entry of the layer's configuration is a number of neurons. Whatever a
    rule says is checked against the shapes; a rule that lies raises `ValueError` with the layer's
    name.

    Args:
        layer_class: a `keras.layers.Layer` (or `keras.Operation`) subclass.
        rule: the rule; leave it out to decorate.

    Returns:
        The rule.

    Raises:
        TypeError: if `layer_class` is not a class of layers or operations, or `rule` is not
            callable.

    Example:

    >>> import keras, keras_dynhp as dynhp
    >>> @keras.saving.register_keras_serializable("doc")
    ... class Scaled(keras.layers.Dense):
    ...     def call(self, inputs):
    ...         return 2.0 * super().call(inputs)
    >>> @dynhp.register_rule(Scaled)
    ... def scaled(call):
    ...     features = call.read(0)
    ...     neurons = call.produce(call.layer.units)
    ...     call.label(call.layer.kernel, (features, "in"), (neurons, "out"))
    ...     call.label(call.layer.bias, (neurons, "out"))
    ...     call.resize("units", neurons)
    ...     return call.along(neurons)
    >>> model = keras.Sequential([keras.Input((4,)), Scaled(8, name="a"), keras.layers.Dense(2)])
    >>> [(group.name, group.size) for group in dynhp.find_groups(model)]
    [('a', 8)]
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, ks.Operation)):
        raise TypeError(
            "`layer_class` must be a subclass of keras.layers.Layer or keras.Operation. "
            f"Received: {layer_class!r}"
        )
    if rule is None:
        return lambda function: register_rule(layer_class, function)
    if not callable(rule):
        raise TypeError(f"`rule` must be a function of one Call. Received: {rule!r}")
    _LAYER_RULES[layer_class] = rule
    return rule


def rule_for(*layer_classes: type | str | None) -> Callable:
    """Register one rule for several layer classes (None: not in this Keras) or bare operations."""

    def decorate(rule: Callable) -> Callable:
        for target in layer_classes:
            if isinstance(target, str):
                _OPERATION_RULES[target] = rule
            elif target is not None:
                _LAYER_RULES[target] = rule
        return rule

    return decorate


def find_rule(operation) -> tuple[Callable | None, str]:
    """The rule for an operation, or None and the reason why there is none."""
    kind = type(operation).__name__
    bare = ks.bare_operation_name(operation)
    if bare is not None and bare in _OPERATION_RULES:
        return _OPERATION_RULES[bare], ""
    for base in type(operation).__mro__:
        if base in _LAYER_RULES:
            changed = _changed(type(operation), base)
            if changed:
                return None, (
                    f"{kind} is a {base.__name__} with its own {changed}(); teach it with "
                    "register_rule"
                )
            return _LAYER_RULES[base], ""
    if isinstance(operation, keras.Model):
        return None, f"{kind} is a subclassed model: {_OPENED}"
    if len(ks.with_inner(operation)) > 1:
        return None, (
            f"no rule for {kind}, which is made of layers: {_OPENED}, or teach it with "
            "register_rule"
        )
    weightless = isinstance(operation, keras.layers.Layer) and not operation.variables
    if weightless and not ks.is_of_keras(type(operation)):
        return None, f"no rule for {kind}: {_OPENED}, or teach it with register_rule"
    return None, f"no rule for {kind}; teach it with register_rule"


def _changed(kind: type, base: type) -> str | None:
    """What a subclass does in another way than the class whose rule it would get."""
    for one in kind.__mro__[: kind.__mro__.index(base)]:
        for name in vars(one):
            own = name == "__call__" or not name.startswith("__")
            if own and name not in _HARMLESS and hasattr(base, name):
                return name
    return None


def zero_kept_by(*layer_classes: type | str, when: Callable | None = None) -> None:
    """Note that these layers and operations return zero wherever they were given zero.

    `when(operation)` says which of them do, if not all.
    """
    _KEEPS_ZERO.update(dict.fromkeys(layer_classes, when))


def keeps_zero(operation) -> bool:
    """Whether a masked (zero) neuron is still zero behind this operation."""
    bare = ks.bare_operation_name(operation)
    key = bare if bare is not None else type(operation)
    when = _KEEPS_ZERO.get(key)
    return key in _KEEPS_ZERO and (when is None or when(operation))
