"""A layer made anew from its configuration, with the classes and functions of the live one."""

from __future__ import annotations

import inspect
import types
import warnings

import keras

from keras_dynhp.keras_state import graph

# What Keras finds by itself. TensorFlow's functions it can't find.
_KNOWN = ("keras.", "builtins", "numpy")


def made_anew(layer: keras.layers.Layer, change) -> keras.layers.Layer:
    """A layer of the same class and configuration, not built yet.

    Nobody needs to have registered the classes that the layer is made of: those of the live layer
    are taken. So are the functions that it holds, since one that goes through a configuration
    loses the module in which it looks up its names.

    Args:
        layer: the live one.
        change: is given the configuration and returns the one to make a layer of.

    Raises:
        ValueError: where two classes in the layer have the same name; whatever the layer's own
            `get_config` and `from_config` raise.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of lambdas, which matter in files only
        config = change(_lambdas_named(layer.get_config()))
    with graph.trusted_deserialization(), keras.saving.custom_object_scope(_objects(layer)):
        new = type(layer).from_config(config)
    _keep_functions(layer, new)
    return new


def _lambdas_named(config):
    """A configuration in which a lambda is called one: Keras 3.15 forgets it of activations."""
    if isinstance(config, list | tuple):
        return type(config)(_lambdas_named(value) for value in config)
    if not isinstance(config, dict) or config.get("class_name") == "__lambda__":
        return config
    result = {key: _lambdas_named(value) for key, value in config.items()}
    code = config.get("value")
    if len(config) == 1 and isinstance(code, tuple) and len(code) == 3 and isinstance(code[0], str):
        return {"class_name": "__lambda__", "config": config}
    return result


def _objects(layer: keras.layers.Layer) -> dict[str, object]:
    """Classes and functions of a layer and of those inside it, by the names in configurations."""
    found: dict[str, object] = {}
    for inner in layer._flatten_layers():
        held = [item for value in vars(inner).values() for item in _items(value)]
        for thing in (type(inner), *held):
            module = str(getattr(thing, "__module__", None))
            if inspect.isroutine(thing):
                if not module.startswith(_KNOWN):
                    found[keras.saving.get_registered_name(thing)] = thing
            elif not module.startswith((*_KNOWN, "tensorflow")):
                _add_class(found, thing, layer)
    return found


def _items(value) -> list:
    """Functions among what an attribute holds, and the classes of everything else."""
    values = value.values() if isinstance(value, dict) else value
    several = isinstance(value, dict | list | tuple)
    return [
        item if inspect.isroutine(item) or inspect.isclass(item) else type(item)
        for item in (values if several else [value])
    ]


def _add_class(found: dict[str, object], cls: type, layer: keras.layers.Layer) -> None:
    name = keras.saving.get_registered_name(cls)
    other = found.setdefault(name, cls)
    if inspect.isclass(other) and other is not cls:
        where = " and ".join(f"{one.__module__}.{one.__qualname__}" for one in (other, cls))
        raise ValueError(
            f"two classes in it are both called {name!r}, {where}, and a configuration cannot tell "
            "them apart: rename one, or register them with "
            "keras.saving.register_keras_serializable under different packages"
        )


def _keep_functions(old: keras.layers.Layer, new: keras.layers.Layer) -> None:
    """Functions that came out of a configuration make place for those that went into it."""
    for name, value in vars(old).items():
        made = vars(new).get(name)
        # Functions that a constructor makes have the same code, and a `self` that is their own.
        both = isinstance(value, types.FunctionType) and isinstance(made, types.FunctionType)
        if both and made.__code__ is not value.__code__:
            setattr(new, name, value)
    inside = (layer._flatten_layers(include_self=False, recursive=False) for layer in (old, new))
    for pair in zip(*inside):  # the new one has no layers yet that its `build` will make
        _keep_functions(*pair)
