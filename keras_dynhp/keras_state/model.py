"""Private facts about Keras models: making the user's object be another graph, mid-training."""

from __future__ import annotations

import types

import keras
from keras.src.ops.function import make_node_key
from keras.src.ops.node import KerasHistory
from keras.src.utils.tracking import DotNotTrackScope, TrackedDict, TrackedList

from keras_dynhp.keras_state.graph import functional_of, models_inside, output_tensors
from keras_dynhp.keras_state.traces import forget_traces

__all__ = [
    "adopt",
    "forget_compiled_steps",
    "graph_of",
    "refresh_statistics",
    "renew_train_step",
]

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


_Pairs = list[tuple[keras.layers.Layer, keras.layers.Layer]]


def adopt(model: keras.Model, new: keras.Model, pairs: _Pairs) -> None:
    """Make `model`, the object the user holds, be the graph of `new`.

    Its class, name, compilation, metrics, history and attributes stay; attributes that hold a
    layer of the old graph, or hold it in a list, a tuple or a dict, hold its successor afterwards.
    So do models inside the model: whoever holds an encoder holds it as the autoencoder calls it.

    Args:
        model: whose graph is exchanged.
        new: a model, or what `graph_of` returned.
        pairs: (old layer, new layer), models inside the model among them, inner ones first.
    """
    if isinstance(new, keras.Model):
        inside = {id(one) for one in models_inside(model)}
        models = [(old, made) for old, made in pairs if id(old) in inside]
        pairs = [(old, made) for old, made in pairs if id(old) not in inside]
        for old, made in models:
            _adopt_graph(old, made, pairs)
            _call_instead(old, made, [new, *(other for _, other in models)])
    else:
        for old, graph, nodes in new.inside:
            _adopt_graph(old, graph, pairs)
            _set_nodes(old, nodes)
    _adopt_graph(model, new, pairs)


def _call_instead(old: keras.Model, made: keras.Model, graphs: list[keras.Model]) -> None:
    """In these graphs, what called the model `made` calls `old`."""
    _set_nodes(old, _nodes_of(made))
    nodes = old._inbound_nodes
    for index, node in enumerate(nodes):
        node.operation = old
        for place, tensor in enumerate(output_tensors(node)):
            tensor._keras_history = KerasHistory(old, index, place)
    for graph in graphs:
        functional = functional_of(graph)
        for operation in functional._operations:
            _wrap_instead(old, made, operation)
        if made not in functional._operations:
            continue

        def exchanged(operations):
            return [old if operation is made else operation for operation in operations]

        functional._tracker.untrack(made)
        functional._tracker.add_to_store("layers", old)
        _set_untracked(functional, "_operations", exchanged(functional._operations))
        by_depth = functional._operations_by_depth.items()
        # The key of a call names its operation by id.
        keys = {make_node_key(made, n): make_node_key(old, n) for n in range(len(nodes))}
        functional.__dict__.update(
            _operations_by_depth={depth: exchanged(these) for depth, these in by_depth},
            _nodes={keys.get(key, key) for key in functional._nodes},
        )
        for holder in {id(one): one for one in (functional, graph)}.values():
            if holder._layers is not holder._tracker.config["layers"][1]:
                _set_untracked(holder, "_layers", exchanged(holder._layers))


def _wrap_instead(old: keras.Model, made: keras.Model, operation) -> None:
    """Where an operation is a wrapper around the model `made`, let it be one around `old`."""
    while isinstance(operation, keras.layers.Wrapper) and operation.layer is not made:
        operation = operation.layer
    if isinstance(operation, keras.layers.Wrapper):
        operation._tracker.untrack(made)
        operation._tracker.unlock()  # it was built
        operation._tracker.add_to_store("layers", old)
        operation._tracker.lock()
        _set_untracked(operation, "layer", old)
        if operation._layers is not operation._tracker.config["layers"][1]:  # before Keras 3.15
            _set_untracked(operation, "_layers", [old])


def _nodes_of(operation) -> dict:
    """Where an operation is called, and where what it makes is used."""
    names = ("_inbound_nodes", "_outbound_nodes")
    return {name: list(getattr(operation, name)) for name in names}


def _set_nodes(operation, nodes: dict) -> None:
    for name, calls in nodes.items():
        _set_untracked(operation, name, calls)


def _set_untracked(operation, name: str, value) -> None:
    """So that TensorFlow, which keeps attributes for its checkpoints, lets go of the one before.

    Keras does not wrap it meanwhile: TensorFlow would not know it.
    """
    with DotNotTrackScope():
        setattr(operation, name, value)


def _adopt_graph(model: keras.Model, new: keras.Model, pairs: _Pairs) -> None:
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
            _set_untracked(model, "_layers", list(new.layers))
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
    inside = models_inside(model)
    graph.inside = [(inner, graph_of(inner), _nodes_of(inner)) for inner in inside]
    return graph


def _replace_attributes(model: keras.Model, successors: dict[int, keras.layers.Layer]) -> None:
    """Of those that a user gave it."""
    for name, value in list(model.__dict__.items()):
        if name not in (*_GRAPH_ATTRIBUTES, "_layers", "_tracker"):
            model.__dict__[name] = _with_successors(value, successors)


def _with_successors(value, successors: dict[int, keras.layers.Layer]):
    """The value, each layer in it exchanged; a list or dict stays the object it is."""
    if isinstance(value, keras.layers.Layer):
        return successors.get(id(value), value)
    if isinstance(value, tuple):  # TensorFlow's wrapper of one among them
        items = [_with_successors(item, successors) for item in value]
        changed = any(item is not was for item, was in zip(items, value))
        if not changed:
            return value
        return value._make(items) if hasattr(value, "_make") else tuple(items)
    # Past the methods of Keras's own lists and dicts, which would track layers a second time.
    if type(value) in (list, TrackedList):
        for place, item in enumerate(list(value)):
            list.__setitem__(value, place, _with_successors(item, successors))
    elif type(value) in (dict, TrackedDict):
        for key, item in list(value.items()):
            dict.__setitem__(value, key, _with_successors(item, successors))
    return value


def forget_compiled_steps(model: keras.Model) -> None:
    """Drop the traced train, test and predict functions: they hold the variables of before."""
    for name in ("train_function", "test_function", "predict_function"):
        forget_traces(getattr(model, name))
        setattr(model, name, None)


def renew_train_step(model: keras.Model) -> None:
    """Inside a running fit: the next step is traced anew."""
    forget_traces(model.train_function)
    model.make_train_function(force=True)


def refresh_statistics(model: keras.Model) -> None:
    """After values were put into variables: a Normalization keeps its statistics twice."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization) and layer.built:
            layer.finalize_state()
