"""Opening layers made of layers: what their `call()` does becomes a graph that can be followed."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math

import keras
import numpy as np

from keras_dynhp.graph.registry import find_rule
from keras_dynhp.keras_state import graph as ks


class NotOpened(ValueError):
    """Why a layer's `call()` can't be written as a graph."""


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
            layer(keras.tree.map_structure(_fresh_like, inputs))
        graph = _graph_of_call(layer, (inputs,), {})
        new = self._model(graph, layer.name, "", traced=True, inputs=inputs)
        inside = ks.with_inner(layer)[1:]
        asks = any(takes_training(one) and one.non_trainable_variables for one in inside)
        self.untold = asks and not takes_training(layer)
        return new

    def _model(self, functional, name, prefix, traced=False, inputs=None) -> keras.Model:
        tensors = {id(tensor): _input_like(tensor) for tensor in functional.inputs}
        if inputs is not None:  # the user's, by whose names and places data may be given
            given = _symbolic(inputs)
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
            return _with_known_batch(ks.copied(operation), args)(*args, **kwargs)
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
        return operation(*args, **kwargs)

    def _opened(self, node, args, kwargs, path: str):
        layer = node.operation
        given = _symbolic((args, kwargs))
        if any(ks.has_mask(tensor) for tensor in [*given, *ks.output_tensors(node)]):
            raise NotOpened("Keras's masks come in or go out, which its call() may look at")
        if kwargs.get("training"):
            raise NotOpened("it is called with training=True")
        kwargs = {key: value for key, value in kwargs.items() if key != "training"}
        numbers = {id(tensor): i for i, tensor in enumerate(given)}
        call = [*_numbered((args, kwargs), numbers), *((tuple(t.shape), t.dtype) for t in given)]
        known = self._blocks.get(id(layer))
        if known is None:
            graph = _graph_of_call(layer, args, kwargs)
            model = self._model(graph, layer.name, path + "/", traced=True)
            self._blocks[id(layer)] = call, model
        elif _alike(known[0], call):
            model = known[1]
        else:
            raise NotOpened("it is called in two ways, which would be two graphs with one weight")
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
    if layer.metrics:
        raise NotOpened("it keeps metrics")
    inside = ks.with_inner(layer)
    attributes = [dict(vars(one)) for one in inside]
    try:
        graph = _traced_alike(layer, args, kwargs)
    finally:
        for one, before in zip(inside, attributes):
            vars(one).clear()  # its own notes of calls, which may hold symbolic tensors
            vars(one).update(before)
    used = {id(one) for called in _layers(graph) for one in ks.with_inner(called)}
    reached = {id(v) for called in _layers(graph) for v in called.variables}
    for called in _layers(graph):
        if not any(called is one for one in inside):
            raise NotOpened(f"its call() calls the layer {called.name!r}, which it does not hold")
    for one in inside:
        if id(one) in used and one is not layer:
            _check_functions(repr(one.name), _held(vars(one)), inside, own=ks.with_inner(one))
    for variable in layer.variables:
        # The state of a generator that nothing drew from is no loss.
        if id(variable) not in reached and variable.name != "seed_generator_state":
            raise NotOpened(
                f"its call() uses {variable.path!r} otherwise than by calling a layer on what "
                "comes in, or not at all"
            )
    return graph


def _traced_alike(layer, args, kwargs) -> keras.Model:
    """The graph of a call, which is the same in training and with any weights."""
    graph = None
    draws = np.random.default_rng(0)
    normal = [(variable, draws.normal(size=variable.shape)) for variable in layer.variables]
    for training, sign in ((False, 0), (True, 1), (True, -1)):
        given = {
            id(variable): _like(variable, sign * values) for variable, values in normal if sign
        }
        pairs = [(variable, given[id(variable)]) for variable, _ in normal if sign]
        with keras.StatelessScope(pairs, collect_losses=True) as scope:
            traced = _traced(layer, args, kwargs, training)
        if scope.losses:
            raise NotOpened("its call() adds losses")
        changed = {key for key, value in scope.state_mapping.items() if value is not given.get(key)}
        if changed:
            path = next((v.path for v in layer.variables if id(v) in changed), None)
            what = "what random numbers come from" if path is None else f"{path!r}"
            raise NotOpened(f"its call() changes {what}")
        if graph is None:
            graph = traced
        else:
            _check_alike(_calls(graph), _calls(traced), layer)
    return graph


def _like(variable, values):
    """Other numbers, in the type of a variable."""
    kind = np.dtype("float32" if variable.dtype == "bfloat16" else variable.dtype).kind
    values = values if kind in "fc" else np.abs(values) > 0.5 if kind == "b" else 9 * np.abs(values)
    return keras.ops.convert_to_tensor(values, dtype=variable.dtype)


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


def _check_alike(calls, others, layer) -> None:
    """Refuse what differs between two traces, but for what says whether it is training."""
    inside = ks.with_inner(layer)
    if len(calls) != len(others):
        raise NotOpened("its call() does something else in training than in inference")
    for (operation, given), (other, given_then) in zip(calls, others):
        name = "the output" if operation is None else f"{operation.name!r}"
        if operation is not other:
            bare = not isinstance(operation, keras.layers.Layer) and type(operation) is type(other)
            if not bare or not _alike(_attributes(operation), _attributes(other)):
                raise NotOpened("its call() does something else in training than in inference")
        told, told_then = _training(given), _training(given_then)
        if (told, told_then) not in ((None, None), (False, True)):
            said = told_then if told == told_then else "something else than it is told"
            raise NotOpened(f"its call() always tells {name} training={said}")
        if told is False and _by_default(layer) not in (None, _by_default(operation) or False):
            raise NotOpened(f"{name} trains by default, and it does not")
        if not _alike(given, given_then, without="training"):
            raise NotOpened(
                f"what its call() gives to {name} is computed from weights or differs between "
                "training and inference"
            )
        if any(isinstance(value, keras.Variable) for _, value in given):
            raise NotOpened(f"its call() gives a weight to {name}, which is no layer's own")
        if operation is not None and not isinstance(operation, keras.layers.Layer):
            if ks.bare_operation_name(operation) is None:
                raise NotOpened(f"{name} is an operation of its own, which may hold weights")
            given = [*given, *_attributes(operation)]
        _check_functions(name, [value for _, value in given], inside)


def _check_functions(name: str, values, inside, own=()) -> None:
    """Refuse functions through which something computes with weights of layers not its own."""
    weights = {id(v) for one in inside for v in (one, *one.variables)}
    weights -= {id(v) for one in own for v in (one, *one.variables)}
    for value in values:
        if weights & _reached_by(value):
            raise NotOpened(f"{name} is given a function that may compute with weights of others")


def _held(values: dict) -> list:
    """Functions among attributes; layers and variables are known."""
    flat = keras.tree.flatten(list(values.values()))
    return [one for one in flat if inspect.isroutine(one) or isinstance(one, functools.partial)]


def _reached_by(value, depth: int = 4) -> set[int]:
    """The ids of objects that a function was made with: bound to it, or closed over."""
    if isinstance(value, functools.partial):
        parts = [value.func, *value.args, *value.keywords.values()]
    elif inspect.isroutine(value):
        cells = getattr(value, "__closure__", None) or ()
        parts = [getattr(value, "__self__", None), *_contents(cells)]
    else:
        return set()
    found = {id(part) for part in parts}
    return found.union(*(_reached_by(part, depth - 1) for part in parts)) if depth else found


def _contents(cells) -> list:
    contents = []
    for cell in cells:
        with contextlib.suppress(ValueError):  # not filled yet
            contents.append(cell.cell_contents)
    return contents


def _by_default(layer) -> bool | None:
    """What `training` is where nobody says it."""
    parameters = inspect.signature(layer.call).parameters
    default = parameters["training"].default if "training" in parameters else None
    return default if isinstance(default, bool) else None


def _with_known_batch(operation, args):
    """A reshape to the batch that was asked for: unknown while a graph is written, it is None."""
    shape = getattr(operation, "newshape", None)
    if not isinstance(shape, (list, tuple)) or None not in shape:
        return operation
    sizes = [size for size in shape if size is not None]
    rest, there = args[0].shape[1:], args[0].shape[0]
    if there is None and len(sizes) == len(shape) - 1 and shape[0] is None:
        if -1 not in sizes:
            operation.newshape = (-1, *sizes)
            return operation
        known = math.prod(size for size in sizes if size != -1)
        if None not in rest and sizes.count(-1) == 1 and known:
            other = math.prod(rest) // known
            operation.newshape = (-1, *(other if size == -1 else size for size in sizes))
            return operation
    raise NotOpened(f"{operation.name!r} reshapes to a size that is unknown here")


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


def _layers(graph: keras.Model) -> list[keras.layers.Layer]:
    operations = [node.operation for node in ks.nodes_in_order(graph) if not ks.is_input(node)]
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
