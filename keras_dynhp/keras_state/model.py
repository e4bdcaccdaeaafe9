"""Private facts about Keras models: making the user's object be another graph, mid-training."""

from __future__ import annotations

import types

import keras
from keras.src.utils.tracking import DotNotTrackScope

from keras_dynhp.keras_state.traces import forget_traces

__all__ = ["adopt", "forget_compiled_steps", "graph_of", "renew_train_step"]

# What a Functional model knows of its graph.
_GRAPH_ATTRIBUTES = (
    "_inputs_struct",
    "_outputs_struct",
    "_inputs",
    "_outputs",
    "_nodes",
    "_nodes_by_depth",
    "_operations",
    "_operations_by_depth",
    "output_names",
)


def adopt(
    model: keras.Model, new: keras.Model, pairs: list[tuple[keras.layers.Layer, keras.layers.Layer]]
) -> None:
    """Make `model`, the object the user holds, be the graph of `new`.

    Its class, name, compilation, metrics, history and attributes stay; attributes that hold a
    layer of the old graph hold its successor afterwards. `pairs` lists (old layer, new layer).
    `new` is a model, or what `graph_of` returned.
    """
    tracked = model._tracker.config["layers"][1]
    if isinstance(model, keras.Sequential):
        for layer in list(tracked):
            model._tracker.untrack(layer)
        model._layers = list(new._layers)
        model._functional = new._functional
    else:
        gone = {id(layer) for layer in model.layers}
        for name in _GRAPH_ATTRIBUTES:
            # Past __setattr__, which would track every layer a second time.
            model.__dict__[name] = new.__dict__[name]
        extra = [layer for layer in tracked if id(layer) not in gone]
        for layer in list(tracked):
            model._tracker.untrack(layer)
        for layer in [*new.layers, *extra]:
            model._tracker.add_to_store("layers", layer)
        if model._layers is not tracked:  # before Keras 3.15
            model.__dict__["_layers"] = list(new.layers)
        _replace_attributes(model, {id(old): successor for old, successor in pairs})
    forget_compiled_steps(model)
    if hasattr(model, "_compiled_trainable_state"):
        with DotNotTrackScope():
            model._compiled_trainable_state = {
                layer: layer.trainable for layer in model._flatten_layers()
            }


def graph_of(model: keras.Model) -> types.SimpleNamespace:
    """The graph of a model as it is now, for `adopt` to give it back after a change."""
    graph = types.SimpleNamespace(layers=model.layers)
    if isinstance(model, keras.Sequential):
        graph._layers, graph._functional = list(model._layers), model._functional
    else:
        vars(graph).update({name: model.__dict__[name] for name in _GRAPH_ATTRIBUTES})
    return graph


def _replace_attributes(model: keras.Model, successors: dict[int, keras.layers.Layer]) -> None:
    for name, value in list(model.__dict__.items()):
        if isinstance(value, keras.layers.Layer) and id(value) in successors:
            model.__dict__[name] = successors[id(value)]


def forget_compiled_steps(model: keras.Model) -> None:
    """Drop the traced train, test and predict functions: they hold the variables of before."""
    for name in ("train_function", "test_function", "predict_function"):
        forget_traces(getattr(model, name))
        setattr(model, name, None)


def renew_train_step(model: keras.Model) -> None:
    """Inside a running fit: the next step is traced anew."""
    forget_traces(model.train_function)
    model.make_train_function(force=True)
