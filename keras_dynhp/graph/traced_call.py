"""What a layer's `call()` does, as a graph."""

from __future__ import annotations

import functools

import keras
import numpy as np

from keras_dynhp.graph.same_calls import (
    NotOpened,
    calls_of,
    check_alike,
    check_functions,
    functions_in,
)
from keras_dynhp.keras_state import graph as ks


def graph_of_call(layer, args, kwargs) -> keras.Model:
    """What a layer's `call()` does with symbolic tensors, as a model that shares its layers.

    It is traced for inference, and for training with other weights. A graph has one way through it
    and constants that are the same for ever, so all must come out alike.

    Raises:
        NotOpened: they do not, or it does what no graph can say.
    """
    if type(layer).__call__ is not keras.layers.Layer.__call__:
        raise NotOpened("it has a __call__() of its own")
    if getattr(layer, "activity_regularizer", None) is not None:
        raise NotOpened("its activity_regularizer regularizes what it returns as a whole")
    if ks.is_adapted(layer):
        raise NotOpened("it is quantized or has adapters")
    if keras.layers.Layer.metrics.fget(layer):  # not those that a model was compiled with
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
            check_functions(repr(one.name), functions_in(vars(one)), inside, own=ks.with_inner(one))
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
            check_alike(calls_of(graph), calls_of(traced), layer)
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
    given = symbolic((args, kwargs))
    policy, dtype = layer.dtype_policy, layer.input_dtype
    fresh = {
        id(tensor): fresh_like(policy.convert_input(ks.like(tensor), layer.autocast, dtype))
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
        try:
            self.outputs = self._run()
        except Exception as error:
            self.error = error
            raise
        return keras.tree.map_structure(ks.like, self.outputs)

    def compute_output_spec(self, inputs, training=None):
        return self.call(inputs, training)  # on symbolic tensors; Keras's own would trace others


def _layers(graph: keras.Model) -> list[keras.layers.Layer]:
    operations = [node.operation for node in ks.nodes_in_order(graph) if not ks.is_input(node)]
    return [one for one in operations if isinstance(one, keras.layers.Layer)]


def symbolic(values) -> list[keras.KerasTensor]:
    """The symbolic tensors among nested values, each once."""
    flat = keras.tree.flatten(values)
    return list({id(one): one for one in flat if isinstance(one, keras.KerasTensor)}.values())


def fresh_like(tensor: keras.KerasTensor) -> keras.KerasTensor:
    """An input of the same shape and type."""
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, sparse=tensor.sparse)
