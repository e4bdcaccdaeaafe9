"""A layer made anew from its configuration, with the functions that the live one holds."""

from __future__ import annotations

import contextlib
import copy
import inspect
import warnings

import keras

from keras_dynhp.keras_state import graph as ks

__all__ = ["config_of", "layer_from_config"]


def config_of(layer: keras.layers.Layer) -> dict:
    """A layer's configuration, for the taker to change."""
    with warnings.catch_warnings():
        # Code in it would matter to a file; here it is the user's own, and never leaves.
        warnings.filterwarnings("ignore", "The object being serialized includes a `lambda`")
        return _lambdas_named(copy.deepcopy(layer.get_config()))


def _lambdas_named(config):
    """A configuration in which a lambda is called one: Keras 3.15 forgets it of activations."""
    if isinstance(config, (list, tuple)):
        return type(config)(_lambdas_named(value) for value in config)
    if not isinstance(config, dict) or config.get("class_name") == "__lambda__":
        return config
    code = config.get("value")
    if len(config) == 1 and isinstance(code, tuple) and len(code) == 3 and isinstance(code[0], str):
        return {"class_name": "__lambda__", "config": config}
    return {key: _lambdas_named(value) for key, value in config.items()}


def layer_from_config(old: keras.layers.Layer, config: dict) -> keras.layers.Layer:
    """A layer of the same class as a live one.

    A configuration is made for files. It says of a function only its name or its code, so one
    that nobody registered, or that reads a global variable, does not come back from it. The live
    layer still holds it, and the new one is given the same.

    Args:
        old: the live layer.
        config: its configuration, with whatever is to be different.

    Returns:
        The new layer, not built.

    Raises:
        Exception: whatever the layer's class says of its configuration.
        ValueError: two classes in the layer have one name.
    """
    _forget_matrices(config)
    functions = _functions(old, config)
    with ks.trusted_deserialization(), keras.saving.custom_object_scope(_objects(old)):
        new = None
        if functions:
            # By Keras's convention a constructor takes functions as they are. A `from_config` or
            # a constructor of its own may want them as a file has them.
            with contextlib.suppress(Exception):
                new = type(old).from_config({**config, **functions})
        if new is None:
            new = type(old).from_config(config)
    _give_functions(old, new)
    new.name = old.name  # a class's `__init__` may take none
    return new


def _forget_matrices(config: dict) -> None:
    """Weights that began as a given matrix: it has the old size, and values are moved anyway."""
    for name, value in config.items():
        constant = isinstance(value, dict) and value.get("class_name") == "Constant"
        if constant and not isinstance(value["config"].get("value"), (int, float)):
            config[name] = "zeros"


def _functions(old, config: dict) -> dict[str, object]:
    """The arguments in a configuration that are functions which only the live layer has."""
    found = {}
    for name, value in config.items():
        live = getattr(old, name, getattr(old, f"_{name}", None))
        if isinstance(value, (dict, str)) and _is_given(live, old):
            found[name] = live
    return found


def _objects(old) -> dict[str, object]:
    """By the names that configurations use: functions and classes that nobody may have registered.

    Those of the layer and of all layers inside it.
    """
    own: dict[str, object] = {}
    for layer in ks.with_inner(old):
        for value in [layer, *_values(vars(layer))]:
            thing = value if inspect.isroutine(value) or inspect.isclass(value) else type(value)
            known = ("builtins", "numpy")
            if not inspect.isroutine(value):
                known += ("tensorflow",)  # but functions such as `tf.nn.softmax` Keras can't find
            if not ks.is_of_keras(thing) and not str(thing.__module__).startswith(known):
                other = own.setdefault(keras.saving.get_registered_name(thing), thing)
                if inspect.isclass(other) and other is not thing:
                    raise ValueError(_two_of_one_name(other, thing))
    return own


def _two_of_one_name(*classes) -> str:
    where = " and ".join(f"{one.__module__}.{one.__qualname__}" for one in classes)
    return (
        f"two classes in it are both called {classes[0].__name__!r}, {where}, and a configuration "
        "cannot tell them apart: rename one, or register them with "
        "keras.saving.register_keras_serializable under different packages"
    )


def _values(attributes: dict):
    for value in attributes.values():
        if isinstance(value, (list, tuple)):
            yield from value
        elif isinstance(value, dict):
            yield from value.values()
        else:
            yield value


def _pairs(old, new):
    """Layers and those inside them; without those that a layer makes only when it is built."""
    ones, others = ks.with_inner(old), ks.with_inner(new)
    return zip(ones, others) if len(ones) == len(others) else [(old, new)]


def _give_functions(old, new) -> None:
    """Let a new layer, and those inside it, hold the very functions that the old ones hold."""
    inside = ks.with_inner(old)
    for one, other in _pairs(old, new):
        config = None
        for name, live in vars(one).items():
            made = vars(other).get(name)
            if made is live or not callable(made) or not _is_given(live, *inside):
                continue
            config = config_of(one) if config is None else config
            if name.lstrip("_") in config:
                setattr(other, name, live)


def _is_given(thing, *layers) -> bool:
    """Whether something may be a user's function that a layer got, not one bound to these."""
    if not callable(thing) or isinstance(thing, (keras.layers.Layer, type)):
        return False
    if ks.is_of_keras(thing if inspect.isroutine(thing) else type(thing)):
        return False
    cells = getattr(thing, "__closure__", None) or ()
    bound = {id(getattr(thing, "__self__", None)), *(id(cell.cell_contents) for cell in cells)}
    return not any(id(layer) in bound for layer in layers)
