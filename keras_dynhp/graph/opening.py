"""Opening layers made of layers: what their `call()` does becomes a graph that can be followed."""

from __future__ import annotations

import math

import keras

from keras_dynhp.graph.registry import find_rule
from keras_dynhp.graph.same_calls import NotOpened, alike, numbered
from keras_dynhp.graph.traced_call import fresh_like, graph_of_call, symbolic, takes_training
from keras_dynhp.keras_state import graph as ks


class _NowhereElse(Exception):
    """A layer that was opened at one call can't be at another."""

    def __init__(self, layer, reason: str):
        super().__init__(reason)
        self.layer, self.reason = layer, reason


class Opener:
    """Writes models as graphs of layers that hold no others, as far as that is the same.

    What comes out shares its layers with the model that went in.

    Attributes:
        closed: of each layer that stays as it is, by its path in the model: why.
        untold: `fit` does not tell the given model that it is training, though what is in it asks.
    """

    def __init__(self):
        self.untold = False
        self._never: dict[int, str] = {}  # layers to leave as they are: why
        self._begin()

    def _begin(self) -> None:
        self.closed: dict[str, str] = {}
        self._models: dict[int, keras.Model] = {}
        self._blocks: dict[int, tuple[list, keras.Model]] = {}  # layer -> how it is called

    def opened(self, model: keras.Model, inputs=None) -> keras.Model:
        """A model with a graph, and in it all that can be opened; or what a call of it does.

        A layer that can't be opened at one of its calls is opened at none: it would be two layers.

        Args:
            model: the model.
            inputs: for one without a graph: the symbolic inputs that it is called on.

        Raises:
            NotOpened: the model is none that a graph can say.
        """
        while True:
            self._begin()
            try:
                return self.model(model) if inputs is None else self._called(model, inputs)
            except _NowhereElse as found:
                self._never[id(found.layer)] = found.reason

    def model(self, old: keras.Model, prefix: str = "") -> keras.Model:
        """A model with a graph, and in it all that can be opened."""
        if id(old) not in self._models:
            new = self._model(ks.functional_of(old), old.name, prefix)
            self._models[id(old)] = new
        return self._models[id(old)]

    def _called(self, layer: keras.Model, inputs) -> keras.Model:
        if not layer.built:
            layer(keras.tree.map_structure(fresh_like, inputs))
        graph = graph_of_call(layer, (inputs,), {})
        new = self._model(graph, layer.name, "", traced=True, inputs=inputs)
        inside = ks.with_inner(layer)[1:]
        asks = any(takes_training(one) and one.non_trainable_variables for one in inside)
        self.untold = asks and not takes_training(layer)
        return new

    def _model(self, functional, name, prefix, traced=False, inputs=None) -> keras.Model:
        tensors = {id(tensor): _input_like(tensor) for tensor in functional.inputs}
        if inputs is not None:  # the user's, by whose names and places data may be given
            given = symbolic(inputs)
            fresh = {id(tensor): _input_like(tensor) for tensor in given}
            places = zip(functional.inputs, given)
            tensors = {id(tensor): fresh[id(one)] for tensor, one in places} | fresh
        for node in ks.nodes_in_order(functional):
            if ks.is_input(node):
                continue
            args, kwargs = ks.fill_in(node, tensors)
            if traced:  # each follows what the model is told
                kwargs.pop("training", None)
            results = self._result(node, args, kwargs, prefix + node.operation.name)
            new = keras.tree.flatten(results)
            tensors.update((id(old), one) for old, one in zip(ks.output_tensors(node), new))
        inputs_like, outputs = ks.structure(functional)
        return keras.Model(
            keras.tree.map_structure(
                lambda tensor: tensors[id(tensor)], inputs_like if inputs is None else inputs
            ),
            keras.tree.map_structure(lambda tensor: tensors[id(tensor)], outputs),
            name=name,
        )

    def _result(self, node, args, kwargs, path: str):
        """What stands for the outputs of a call."""
        operation = node.operation
        if not isinstance(operation, keras.layers.Layer):
            shape = _without_batch(operation, args)
            if shape is not None:
                return keras.ops.reshape(args[0], shape)
            return ks.copied(operation)(*args, **kwargs)
        if isinstance(operation, keras.Model) and ks.functional_of(operation) is not None:
            return self.model(operation, path + "/")(*args, **kwargs)
        if _may_open(operation):
            try:
                if id(operation) in self._never:
                    raise NotOpened(self._never[id(operation)])
                return self._opened(node, args, kwargs, path)
            except NotOpened as reason:
                if id(operation) in self._blocks:  # opened elsewhere
                    raise _NowhereElse(operation, str(reason)) from reason
                self._never[id(operation)] = self.closed[path] = str(reason)
        for inner in ks.with_inner(operation)[1:]:  # opened, they would be two layers each
            reason = f"{operation.name!r} holds it, too, and stays as it is"
            if id(inner) in self._blocks:
                raise _NowhereElse(inner, reason)
            self._never.setdefault(id(inner), reason)
        return operation(*args, **kwargs)

    def _opened(self, node, args, kwargs, path: str):
        layer = node.operation
        given = symbolic((args, kwargs))
        if any(ks.has_mask(tensor) for tensor in [*given, *ks.output_tensors(node)]):
            raise NotOpened("Keras's masks come in or go out, which its call() may look at")
        if kwargs.get("training"):
            raise NotOpened("it is called with training=True")
        kwargs = {key: value for key, value in kwargs.items() if key != "training"}
        numbers = {id(tensor): i for i, tensor in enumerate(given)}
        call = [*numbered((args, kwargs), numbers), *((tuple(t.shape), t.dtype) for t in given)]
        known = self._blocks.get(id(layer))
        if known is None:
            graph = graph_of_call(layer, args, kwargs)
            model = self._model(graph, layer.name, path + "/", traced=True)
            self._blocks[id(layer)] = call, model
        elif alike(known[0], call):
            model = known[1]
        else:
            raise NotOpened("it is called in two ways, which would be two graphs with one weight")
        results = model(given[0] if len(given) == 1 else given)
        for old, new in zip(ks.output_tensors(node), keras.tree.flatten(results)):
            if ks.has_mask(new) or old.dtype != new.dtype or not _fits(new.shape, old.shape):
                raise NotOpened(
                    f"its call() makes {_said(new)} where Keras's graph has {_said(old)}"
                )
        return results


def _may_open(layer: keras.layers.Layer) -> bool:
    """Whether nobody knows what a layer does, and it may be made of what is known."""
    if isinstance(layer, keras.layers.Lambda):
        return True
    if find_rule(layer)[0] is not None:
        return False
    return len(ks.with_inner(layer)) > 1 or not (layer.variables or ks.is_of_keras(type(layer)))


def _fits(shape, known) -> bool:
    """Whether a shape is one that may be known less precisely."""
    pairs = zip(shape, known)
    return len(shape) == len(known) and all(one == other or other is None for one, other in pairs)


def _without_batch(operation, args) -> tuple | None:
    """The shape for a reshape that asked for the batch: unknown while a graph is written."""
    to = getattr(operation, "shape", ())
    if isinstance(to, (list, tuple)) and None in to:
        raise NotOpened(f"{operation.name!r} makes a size that is unknown here")
    shape = getattr(operation, "newshape", None)
    if not isinstance(shape, (list, tuple)) or None not in shape:
        return None
    first, *sizes = shape
    if first is None and None not in sizes and args[0].shape[0] is None:
        if -1 not in sizes:
            return (-1, *sizes)
        known = math.prod(size for size in sizes if size != -1)
        if None not in args[0].shape[1:] and known:
            other = math.prod(args[0].shape[1:]) // known
            return (-1, *(other if size == -1 else size for size in sizes))
    raise NotOpened(f"{operation.name!r} reshapes to a size that is unknown here")


def _input_like(tensor: keras.KerasTensor) -> keras.KerasTensor:
    """An input of the same name, by which data may be given."""
    config = ks.maker_of(tensor).get_config()
    return keras.layers.InputLayer.from_config(config).output


def _said(tensor) -> str:
    return f"{'a masked ' if ks.has_mask(tensor) else ''}{tuple(tensor.shape)} {tensor.dtype}"
