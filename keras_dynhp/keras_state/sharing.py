"""Private facts about Keras models: which other models hold the same layers."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import keras

__all__ = ["models_beside"]


def models_beside(model: keras.Model) -> list[tuple[str, str]]:
    """Other living models that hold layers of this one: their names, and a layer of each.

    A layer doesn't know which models it is part of, so all objects are looked through. Models that
    are part of this one are no others; nor is a model around this one, which calls it as a whole.
    """
    found = _look(model)
    if found:
        gc.collect()  # models that nobody holds any more may not have been cleared away yet
        found = _look(model)
    return found


def _look(model: keras.Model) -> list[tuple[str, str]]:
    own = {id(layer) for layer in _layers(model) if layer.weights}
    living = [one for one in gc.get_objects() if issubclass(type(one), keras.Model)]
    known = {id(part) for part in _layers(model)} | {id(model)}
    known |= {id(graph) for one in living for graph in _own_graphs(one)}  # their model is named
    found = []
    for other in living:
        if id(other) not in known:
            names = [layer.name for layer in _layers(other, without=model) if id(layer) in own]
            found += [(other.name, name) for name in names[:1]]
    return sorted(found)


def _own_graphs(model) -> list[keras.Model]:
    """The graphs that a Sequential makes for itself: that of now, and those before each change."""
    if _graph_of_sequential(model) is None:
        return []
    layers = {id(layer) for layer in model.layers}
    tracked = [model._functional, *model._tracker.config["layers"][1]]
    return [one for one in tracked if isinstance(one, keras.Model) and id(one) not in layers]


def _layers(model, without=None) -> Iterator[keras.layers.Layer]:
    """All layers of a model and of the models inside it, and the graph a Sequential keeps."""
    seen, todo = set(), [model]
    while todo:
        layer = todo.pop()
        if layer is without or id(layer) in seen:
            continue
        seen.add(id(layer))
        if layer is not model:
            yield layer
        todo += getattr(layer, "_layers", [])
        graph = _graph_of_sequential(layer)
        if graph is not None:
            todo.append(graph)


def _graph_of_sequential(layer) -> keras.Model | None:
    """None for other layers, for one not built yet, and for one whose constructor failed.

    The last is an object all the same as long as somebody holds the error.
    """
    return getattr(layer, "_functional", None) if isinstance(layer, keras.Sequential) else None
