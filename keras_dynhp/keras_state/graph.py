"""Private facts about Keras's graphs of operations."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import keras
from keras.src import backend
from keras.src.backend.common import global_state
from keras.src.backend.common.masking import set_keras_mask
from keras.src.models.functional import Functional
from keras.src.ops.node import Node
from keras.src.ops.operation import Operation
from keras.src.saving.serialization_lib import SafeModeScope

__all__ = [
    "Node",
    "Operation",
    "adapt_alike",
    "bare_operation_name",
    "call_arguments",
    "copied",
    "fill_in",
    "functional_of",
    "given_attributes",
    "has_adapters",
    "has_mask",
    "input_tensors",
    "is_adapted",
    "is_input",
    "is_of_keras",
    "like",
    "maker_of",
    "models_inside",
    "nodes_in_order",
    "once_per_file",
    "output_tensors",
    "structure",
    "traced_spec",
    "trusted_deserialization",
    "unwrapped",
    "with_inner",
    "with_mask",
    "without_new_calls",
]


def functional_of(model: keras.Model) -> keras.Model | None:
    """The functional graph behind a model: itself, a Sequential's own, or None.

    None is for a subclassed one, which computes what its class says. So does one with a graph and
    a `call()` of its own.
    """
    made = keras.Sequential if isinstance(model, keras.Sequential) else Functional
    if type(model).call is not made.call:
        return None
    return model._functional if made is keras.Sequential else model


def nodes_in_order(functional: keras.Model) -> list[Node]:
    """Every call of an operation in a functional graph, inputs first, in the order Keras runs."""
    by_depth = functional._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]


def with_inner(operation: Operation) -> list[Operation]:
    """An operation and, if it is a layer, the layers inside it, outermost first."""
    if isinstance(operation, keras.layers.Layer):
        return operation._flatten_layers()
    return [operation]


def has_adapters(operation: Operation) -> bool:
    """Whether a layer, or one inside it, has the adapters of `enable_lora`."""
    return any(getattr(inner, "lora_enabled", False) for inner in with_inner(operation))


def is_adapted(operation: Operation) -> bool:
    """Whether a layer, or one inside it, is quantized or has adapters."""
    return has_adapters(operation) or any(
        getattr(inner, "quantization_mode", None) for inner in with_inner(operation)
    )


def adapt_alike(old: keras.layers.Layer, new: keras.layers.Layer) -> None:
    """Quantize a layer as another is, and give it adapters of the same rank.

    Configurations say so of most layers, but not of those inside an attention layer.
    """
    for name in ("quantization_mode", "lora_enabled"):
        if not getattr(old, name, None) or getattr(new, name, None):
            continue
        if name == "lora_enabled":
            new.enable_lora(old.lora_rank, lora_alpha=old.lora_alpha)
        else:
            new.quantize(old.quantization_mode)


def models_inside(model: keras.Model) -> list[keras.Model]:
    """The functional models that the graph of a model calls, each behind those inside it.

    Those in wrappers, such as `TimeDistributed(model)`, are among them.
    """
    found = {}
    for node in nodes_in_order(functional_of(model)):
        inner = unwrapped(node.operation)
        if isinstance(inner, keras.Model) and functional_of(inner) is not None:
            found.update(dict.fromkeys(models_inside(inner)))
            found[inner] = None
    return list(found)


def unwrapped(operation: Operation) -> Operation:
    """What a wrapper is around, itself no wrapper; an operation that is none as it is."""
    while isinstance(operation, keras.layers.Wrapper):
        operation = operation.layer
    return operation


def is_input(node: Node) -> bool:
    """Whether a node has nothing before it (an InputLayer)."""
    return node.is_input


def input_tensors(node: Node) -> list[keras.KerasTensor]:
    """The symbolic tensors among a call's arguments, in the order `keras.tree` flattens them."""
    return node.arguments.keras_tensors


def output_tensors(node: Node) -> list[keras.KerasTensor]:
    """The symbolic tensors that a call returned, flat."""
    return node.outputs


def call_arguments(node: Node) -> tuple[tuple, dict]:
    """The arguments of a call as they were given, symbolic tensors and constants."""
    return node.arguments.args, node.arguments.kwargs


def fill_in(node: Node, tensors: dict[int, object]) -> tuple[tuple, dict]:
    """The arguments of a call with every symbolic tensor replaced by `tensors[id(tensor)]`."""
    return node.arguments.fill_in(tensors)


def traced_spec(operation: Operation, args: tuple, kwargs: dict):
    """What an operation makes of tensors, by tracing its call; what it says of shapes is not asked.

    A user's `compute_output_shape` may leave open what the inputs fix.
    """
    return backend.compute_output_spec(operation.call, *args, **kwargs)


def structure(functional: keras.Model) -> tuple[object, object]:
    """The nested inputs and outputs with which a functional model was made."""
    return functional._inputs_struct, functional._outputs_struct


def bare_operation_name(operation: Operation) -> str | None:
    """The class name of a bare `keras.ops` operation ("Add", "Reshape"), None for a layer."""
    if isinstance(operation, keras.layers.Layer):
        return None
    if type(operation).__module__.startswith("keras.src.ops."):
        return type(operation).__name__
    return None


def is_of_keras(thing) -> bool:
    """Whether a class or a function is one of Keras's own."""
    return str(thing.__module__).startswith("keras.")


def like(tensor: keras.KerasTensor) -> keras.KerasTensor:
    """A symbolic tensor of the same shape and type that belongs to no graph."""
    return keras.KerasTensor(tensor.shape, tensor.dtype, sparse=tensor.sparse)


def maker_of(tensor: keras.KerasTensor) -> Operation:
    """The operation whose output a symbolic tensor is."""
    return tensor._keras_history.operation


def trusted_deserialization():
    """A context in which configurations may hold code: those of the user's own live objects."""
    return SafeModeScope(False)


def with_mask(tensor, mask):
    """A tensor with the mask that Keras hands to the layers that read it; None for no mask."""
    if mask is not None:
        set_keras_mask(tensor, mask)
    return tensor


def has_mask(tensor) -> bool:
    """Whether a tensor has a mask that Keras hands to the layers that read it."""
    return backend.get_keras_mask(tensor) is not None


def given_attributes(operation: Operation) -> dict:
    """What a bare operation was made with: everything but its name and its place in a graph."""
    kept = {"_lock", "_auto_config", "name", "_inbound_nodes", "_outbound_nodes"}
    return {name: value for name, value in vars(operation).items() if name not in kept}


@contextlib.contextmanager
def without_new_calls(layers: Callable[[], Iterable[keras.layers.Layer]]) -> Iterator[None]:
    """Layers do not remember that they were called on symbolic tensors in this context.

    A call is part of every graph that can be reached from a layer. `layers()` is asked again at
    the end, for those that were made meanwhile.
    """
    names = ("_inbound_nodes", "_outbound_nodes")
    known = {(id(one), name): len(getattr(one, name)) for one in layers() for name in names}
    try:
        yield
    finally:
        for one in layers():
            for name in names:
                del getattr(one, name)[known.get((id(one), name), 0) :]


def copied(operation: Operation) -> Operation:
    """A bare operation made anew, not called yet."""
    new = object.__new__(type(operation))  # copy.copy would go through the configuration
    new.__dict__.update(operation.__dict__)
    new._inbound_nodes, new._outbound_nodes = [], []
    return new


def once_per_file(key, make):
    """What `make()` returns, made once for a key while one model file is being loaded.

    Keras marks objects that are shared in a file as such, but loses the mark of the first one where
    that lies inside another object (a layer in a wrapper, a model in a model). The table of
    shared objects exists only during a load; outside of one, everything is made anew.
    """
    shared = global_state.get_global_attribute("shared_objects/id_to_obj_map")
    if shared is None:
        return make()
    if key not in shared:
        shared[key] = make()
    return shared[key]
