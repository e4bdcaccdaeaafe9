"""Opening layers made of layers: what their `call()` does becomes a graph that can be followed."""

from __future__ import annotations

import functools

import keras
import numpy as np

from keras_dynhp.graph.registry import find_rule
from keras_dynhp.keras_state import graph as ks


class NotOpened(ValueError):
    """Why a layer's `call()` can't be written as a graph."""


class Opener:
    """Writes models as graphs of layers that hold no others, as far as that is the same.

    What comes out shares its layers with the model that went in.

    Attributes:
        closed: of each layer that stays as it is, by its path in the model: why.
        frozen: models in the place of what was not trainable.
        untold: `fit` does not tell the given model that it is training, though what is in it asks.
    """

    def __init__(self):
        self.closed: dict[str, str] = {}
        self.frozen: list[keras.Model] = []
        self.untold = False
        self._models: dict[int, keras.Model] = {}
        self._blocks: dict[int, list[tuple[object, keras.Model]]] = {}  # layer -> its calls

    def model(self, old: keras.Model, prefix: str = "") -> keras.Model:
        """A model with a graph, and in it all that can be opened."""
        if id(old) not in self._models:
            new = self._model(ks.functional_of(old), old.name, prefix)
            self._models[id(old)] = new
            self._note_frozen(old, new)
        return self._models[id(old)]

    def called(self, layer: keras.layers.Layer, inputs) -> keras.Model:
        """A subclassed model, or any layer, as a graph from symbolic inputs; opened inside, too.

        Raises:
            NotOpened: with the reason.
        """
        if not layer.built:
            layer(keras.tree.map_structure(_fresh_like, inputs))
        graph = _graph_of_call(layer, (inputs,), {})
        new = self._model(graph, layer.name, "", traced=True)
        self._note_frozen(layer, new)
        stateful = any(
            takes_training(one) and one.non_trainable_variables for one in _layers(graph)
        )
        self.untold = stateful and not takes_training(layer)
        return new

    def _note_frozen(self, old, new) -> None:
        if not old.trainable:  # freezing the new one here would freeze what it shares
            self.frozen.append(new)

    def _model(self, functional, name: str, prefix: str, traced: bool = False) -> keras.Model:
        tensors = {id(tensor): _input_like(tensor) for tensor in functional.inputs}
        for node in ks.nodes_in_order(functional):
            if ks.is_input(node):
                continue
            args, kwargs = ks.fill_in(node, tensors)
            if traced:  # each follows what the model is told
                kwargs.pop("training", None)
            results = self._result(node, args, kwargs, prefix + node.operation.name)
            new = keras.tree.flatten(results)
            tensors.update((id(old), one) for old, one in zip(ks.output_tensors(node), new))
        inputs, outputs = ks.structure(functional)
        return keras.Model(
            keras.tree.map_structure(lambda tensor: tensors[id(tensor)], inputs),
            keras.tree.map_structure(lambda tensor: tensors[id(tensor)], outputs),
            name=name,
        )

    def _result(self, node, args, kwargs, path: str):
        """What stands for the outputs of a call."""
        operation = node.operation
        if not isinstance(operation, keras.layers.Layer):
            return ks.copied(operation)(*args, **kwargs)
        if isinstance(operation, keras.Model) and ks.functional_of(operation) is not None:
            return self.model(operation, path + "/")(*args, **kwargs)
        if _may_open(operation):
            try:
                return self._opened(node, args, kwargs, path)
            except NotOpened as reason:
                self.closed[path] = str(reason)
        return operation(*args, **kwargs)

    def _opened(self, node, args, kwargs, path: str):
        layer = node.operation
        given = _symbolic((args, kwargs))
        if any(ks.has_mask(tensor) for tensor in [*given, *ks.output_tensors(node)]):
            raise NotOpened("Keras's masks come in or go out, which its call() may look at")
        if kwargs.get("training"):
            raise NotOpened("it is called with training=True")
        kwargs = {key: value for key, value in kwargs.items() if key != "training"}
        before = self._blocks.setdefault(id(layer), [])
        call = _numbered((args, kwargs), {id(tensor): i for i, tensor in enumerate(given)})
        model = next((model for other, model in before if _alike(other, call)), None)
        if model is None:
            graph = _graph_of_call(layer, args, kwargs)
            name = f"{layer.name}_call_{len(before) + 1}" if before else layer.name
            model = self._model(graph, name, path + "/", traced=True)
            self._note_frozen(layer, model)
            before.append((call, model))
        results = model(given[0] if len(given) == 1 else given)
        for old, new in zip(ks.output_tensors(node), keras.tree.flatten(results)):
            if ks.has_mask(new) or (old.shape, old.dtype) != (new.shape, new.dtype):
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


def _graph_of_call(layer, args, kwargs) -> keras.Model:
    """What a layer's `call()` does with symbolic tensors, as a model that shares its layers.

    It is traced twice, the second time for training and with other weights. A graph has one way
    through it and constants that are the same for ever, so both must come out alike.
    """
    if type(layer).__call__ is not keras.layers.Layer.__call__:
        raise NotOpened("it has a __call__() of its own")
    if getattr(layer, "activity_regularizer", None) is not None:
        raise NotOpened("its activity_regularizer regularizes what it returns as a whole")
    if ks.is_adapted(layer):
        raise NotOpened("it is quantized or has adapters")
    with keras.StatelessScope() as scope:
        graph = _traced(layer, args, kwargs, training=False)
    if scope.state_mapping:
        changed = [v.path for v in layer.variables if scope.get_current_value(v) is not None]
        what = (
            f"{changed[0]!r}, as random numbers do" if changed else "what random numbers come from"
        )
        raise NotOpened(f"its call() changes {what}")
    generator = np.random.default_rng(0)
    others = [(v, generator.normal(size=v.shape)) for v in layer.variables if _is_float(v)]
    with keras.StatelessScope(others):
        again = _traced(layer, args, kwargs, training=True)
    _check_alike(_calls(graph), _calls(again))
    inside = {id(v) for inner in _layers(graph) for v in inner.variables}
    for variable in layer.variables:
        # The state of a generator that nothing drew from is no loss.
        if id(variable) not in inside and _is_float(variable):
            raise NotOpened(
                f"its call() uses {variable.path!r} otherwise than by calling a layer on what "
                "comes in, or not at all"
            )
    return graph


def takes_training(layer) -> bool:
    """Whether a layer is told by an argument if it is training."""
    return "training" in layer.call_signature_parameters


def _traced(layer, args, kwargs, training: bool | None) -> keras.Model:
    given = _symbolic((args, kwargs))
    policy, dtype = layer.dtype_policy, layer.input_dtype
    fresh = {
        id(tensor): _fresh_like(policy.convert_input(ks.like(tensor), layer.autocast, dtype))
        for tensor in given
    }
    args, kwargs = keras.tree.map_structure(
        lambda value: fresh.get(id(value), value), (args, kwargs)
    )
    told = {"training": training} if takes_training(layer) else {}
    run = functools.partial(layer.call, *args, **kwargs, **told)
    call = _Called(run, dtype=policy)
    inputs = list(fresh.values())
    try:
        call(inputs, training=training)
        return keras.Model(inputs[0] if len(inputs) == 1 else inputs, call.outputs)
    except Exception as error:
        error = call.error or error
        raise NotOpened(f"its call() does not work with symbolic tensors: {error}") from error


class _Called(keras.layers.Layer):
    """Runs what works on symbolic tensors inside a call of a layer.

    There layers are told whether it is training as in every call: by their arguments, or because
    the layer around them was told.
    """

    def __init__(self, run, dtype):
        super().__init__(dtype=dtype, autocast=False)
        self.built = True
        self.error = None  # as it was, before Keras adds where it was
        self._run = run

    def call(self, inputs, training=None):
        """Stands for the signature; `compute_output_spec` does the work."""
        raise NotImplementedError

    def compute_output_spec(self, inputs, training=None):
        try:
            self.outputs = self._run()
        except Exception as error:
            self.error = error
            raise
        return keras.tree.map_structure(ks.like, self.outputs)


def _calls(model: keras.Model) -> list[tuple[object, list[tuple]]]:
    """Every call in a graph: what is called, and on what, tensors being numbered."""
    numbers: dict[int, int] = {}
    calls = []
    for node in ks.nodes_in_order(model):
        if not ks.is_input(node):
            calls.append((node.operation, _numbered(ks.call_arguments(node), numbers)))
        for tensor in ks.output_tensors(node):
            numbers[id(tensor)] = len(numbers)
    _, outputs = ks.structure(model)
    return [*calls, (None, _numbered(outputs, numbers))]


def _numbered(values, numbers: dict[int, int]) -> list[tuple]:
    """Nested values flat, each with its path in them; a symbolic tensor is its number."""
    return [
        (path, _Number(numbers[id(one)]) if isinstance(one, keras.KerasTensor) else one)
        for path, one in keras.tree.flatten_with_path(values)
    ]


class _Number(int):
    """Which symbolic tensor; no number of the user's is one."""


def _check_alike(calls, others) -> None:
    """Refuse what differs between two traces, but for what says whether it is training."""
    if len(calls) != len(others):
        raise NotOpened("its call() does something else in training than in inference")
    for (operation, given), (other, given_then) in zip(calls, others):
        name = "the output" if operation is None else f"{operation.name!r}"
        if operation is not other:
            bare = not isinstance(operation, keras.layers.Layer) and type(operation) is type(other)
            if not bare or not _alike(_attributes(operation), _attributes(other)):
                raise NotOpened("its call() does something else in training than in inference")
        told, told_then = _training(given), _training(given_then)
        if told is not None and told == told_then:
            raise NotOpened(f"its call() always tells {name} training={told}")
        if not _alike(given, given_then, without="training"):
            raise NotOpened(
                f"what its call() gives to {name} is computed from weights or differs between "
                "training and inference"
            )
        if any(isinstance(value, keras.Variable) for _, value in given):
            raise NotOpened(f"its call() gives a weight to {name}, which is no layer's own")


def _attributes(operation) -> list[tuple]:
    return keras.tree.flatten_with_path(ks.given_attributes(operation))


def _training(given) -> bool | None:
    return next((value for path, value in given if path[-1:] == ("training",)), None)


def _alike(given, others, without: str | None = None) -> bool:
    """Whether nested values, flat, are the same in the same places."""
    given, others = ([e for e in one if e[0][-1:] != (without,)] for one in (given, others))
    return len(given) == len(others) and all(
        path == then and _equal(one, other) for (path, one), (then, other) in zip(given, others)
    )


def _equal(one, other) -> bool:
    if one is other:
        return True
    if isinstance(one, slice) or type(one) is not type(other):
        return type(one) is type(other) and one == other
    if hasattr(one, "__array__"):
        one, other = np.asarray(one), np.asarray(other)
        if one.dtype != other.dtype:
            return False
        return np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")
    return bool(one == other)


def _is_float(variable) -> bool:
    return keras.backend.is_float_dtype(variable.dtype)


def _layers(graph: keras.Model) -> list[keras.layers.Layer]:
    operations = (node.operation for node in ks.nodes_in_order(graph))
    return [one for one in operations if isinstance(one, keras.layers.Layer)]


def _symbolic(values) -> list[keras.KerasTensor]:
    """The symbolic tensors among nested values, each once."""
    flat = keras.tree.flatten(values)
    return list({id(one): one for one in flat if isinstance(one, keras.KerasTensor)}.values())


def _input_like(tensor: keras.KerasTensor) -> keras.KerasTensor:
    """An input of the same name, by which data may be given."""
    config = ks.maker_of(tensor).get_config()
    return keras.layers.InputLayer.from_config(config).output


def _fresh_like(tensor: keras.KerasTensor) -> keras.KerasTensor:
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, sparse=tensor.sparse)


def _said(tensor) -> str:
    return f"{'a masked ' if ks.has_mask(tensor) else ''}{tuple(tensor.shape)} {tensor.dtype}"
