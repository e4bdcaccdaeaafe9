"""Arrays by the inputs and outputs of a model: whatever structure holds them, as `fit` takes it."""

from __future__ import annotations

import keras

from keras_dynhp.keras_state import graph


def input_names(model: keras.Model) -> list[str]:
    """How a dict of data calls the inputs: as the dict did that the model was made of, if one."""
    struct, _ = graph.structure(graph.functional_of(model))
    return _names(struct, [tensor.name for tensor in model.inputs])


def output_names(model: keras.Model) -> list[str]:
    """The names of the outputs: keys of the dict that the model returns, or names of layers."""
    functional = graph.functional_of(model)
    _, struct = graph.structure(functional)
    names = _names(struct, functional.output_names)
    # A layer that is called twice names two outputs.
    return [
        f"{name} ({number})" if names.count(name) > 1 else name for number, name in enumerate(names)
    ]


def per_input(model: keras.Model, data) -> list:
    """For each input of a model what `data` has for it: an array, or whatever stands for one.

    Raises:
        TypeError: where no input can be meant.
        ValueError: where inputs are missing or too many.
    """
    count = len(model.inputs)
    if isinstance(data, dict):
        return _from_dict(model, data)
    if isinstance(data, list | tuple):
        parts = keras.tree.flatten(data)
        if len(parts) == count and all(_is_array(part) for part in parts):
            whole = count > 1 or len(parts[0].shape) >= len(model.inputs[0].shape)
            if whole:
                return parts
        if count > 1:
            raise ValueError(f"the model has {count} inputs; received {len(parts)} arrays.")
        if isinstance(data, list):
            return [data]  # of samples
    if not _is_array(data):
        raise TypeError(
            "representative data is an array, a list or dict of arrays for a model with several "
            "inputs, a tf.data.Dataset, a keras.utils.PyDataset or a generator; received "
            f"{type(data).__name__}."
        )
    if count > 1:
        raise ValueError(
            f"the model has {count} inputs: give a list of {count} arrays or a dict by name; "
            f"received {type(data).__name__}."
        )
    return [data]


def per_output(model: keras.Model, labels) -> list | None:
    """For each output of a model its labels, or None; None for what fits no outputs."""
    names, count = output_names(model), len(model.outputs)
    if isinstance(labels, dict):
        layers = graph.functional_of(model).output_names
        if not set(labels) & {*names, *layers}:
            return None
        return [labels.get(name, labels.get(layer)) for name, layer in zip(names, layers)]
    if isinstance(labels, list | tuple):
        parts = list(labels)
        if len(parts) == count and all(part is None or _is_array(part) for part in parts):
            return parts
        return [labels] if count == 1 and not any(map(_is_array, parts)) else None
    return [labels] if count == 1 and _is_array(labels) else None


def _names(struct, others: list[str]) -> list[str]:
    flat = isinstance(struct, dict) and not any(map(keras.tree.is_nested, struct.values()))
    return (
        [str(key) for key in keras.tree.flatten({key: key for key in struct})] if flat else others
    )


def _from_dict(model: keras.Model, data: dict) -> list:
    """By the keys of the model's own dict, or by the names of its inputs; others are ignored."""
    struct, _ = graph.structure(graph.functional_of(model))
    if isinstance(struct, dict) and set(struct) <= set(data):
        parts = keras.tree.flatten({key: data[key] for key in struct})
        if len(parts) == len(model.inputs):
            return parts
    names = [tensor.name for tensor in model.inputs]
    if set(names) <= set(data):
        return [data[name] for name in names]
    raise ValueError(
        f"the model's inputs are {input_names(model)}; received data for {list(data)}."
    )


def _is_array(value) -> bool:
    """Whether it is an array, a tensor, a table, or the description of one in a data set."""
    return hasattr(value, "shape")
