"""A model as a flat list of operation calls on one sample, nested models opened up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import keras

from keras_dynhp.keras_state import graph


class UnknownLength(ValueError):
    """A cost depends on an axis of unknown length."""


@dataclass(eq=False)
class Tensor:
    """What flows between two calls: static shape (the first axis is the one sample) and dtype."""

    shape: tuple[int | None, ...]
    dtype: str
    name: str = ""

    @property
    def size(self) -> int:
        """Number of values; raises `UnknownLength` where an axis is not fixed."""
        if None in self.shape:
            raise UnknownLength(
                f"the tensor {self.name!r} has shape {self.shape}: its cost depends on an axis of "
                "unknown length. Build the model with a fixed input shape, for example "
                "keras.Input((28, 28, 1))."
            )
        return math.prod(self.shape)


@dataclass(eq=False)
class Call:
    """One call of one operation: a shared layer has several."""

    operation: object
    name: str
    inputs: list[Tensor]
    outputs: list[Tensor]
    arguments: tuple[tuple, dict] = field(repr=False, default=((), {}))

    @property
    def input(self) -> Tensor:
        """The first tensor the call reads."""
        return self.inputs[0]

    @property
    def output(self) -> Tensor:
        """The first tensor the call makes."""
        return self.outputs[0]


@dataclass(eq=False)
class FlatGraph:
    """The calls in the order they run, and the tensors that enter and leave."""

    calls: list[Call]
    inputs: list[Tensor]
    outputs: list[Tensor]


def check_is_model(model: keras.Model) -> None:
    """Refuse what is no model, before anything is asked of it."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {type(model).__name__}")


def flatten(
    model: keras.Model, samples: Sequence[tuple[int | None, ...]] | None = None
) -> FlatGraph:
    """Every call of one forward pass of one sample, in the order Keras runs them.

    Args:
        model: a built Sequential or Functional Keras 3 model, nested as it may be.
        samples: for each input the shape of one sample, for lengths that the model leaves open.

    Raises:
        TypeError: for what is no Keras model.
        ValueError: for a subclassed model, whose graph cannot be read, or an unbuilt one.
    """
    check_is_model(model)
    functional = _functional(model)
    shapes = [_one_sample(tensor.shape) for tensor in functional.inputs]
    if samples is not None and len(samples) == len(shapes):
        shapes = [_filled(shape, (1, *sample)) for shape, sample in zip(shapes, samples)]
    tensors = [Tensor(s, t.dtype, t.name) for s, t in zip(shapes, functional.inputs)]
    calls: list[Call] = []
    outputs = _walk(functional, tensors, "", calls)
    return FlatGraph(calls, tensors, outputs)


def _functional(model: keras.Model) -> keras.Model:
    functional = graph.functional_of(model)
    if functional is None:
        state = "unbuilt" if isinstance(model, keras.Sequential) else "subclassed"
        raise ValueError(
            f"the graph of {model.name!r} ({type(model).__name__}, {state}) cannot be read: only "
            "built Sequential and Functional models have one. Give the model an Input, or write "
            "it as one with keras_dynhp.to_functional(model, keras.Input(shape))."
        )
    return functional


def _walk(functional, inputs: list[Tensor], path: str, calls: list[Call]) -> list[Tensor]:
    known = {id(symbol): tensor for symbol, tensor in zip(functional.inputs, inputs)}
    for node in graph.nodes_in_order(functional):
        if graph.is_input(node):
            continue
        operation = node.operation
        arguments = [known[id(symbol)] for symbol in graph.input_tensors(node)]
        name = f"{path}{operation.name}"
        inner = graph.functional_of(operation) if isinstance(operation, keras.Model) else None
        if inner is not None:
            outputs = _walk(inner, arguments, f"{name}/", calls)
        else:
            outputs = _outputs(node, known, name)
            call_arguments = graph.call_arguments(node)
            calls.append(Call(operation, name, arguments, outputs, call_arguments))
        known.update((id(s), t) for s, t in zip(graph.output_tensors(node), outputs))
    return [known[id(symbol)] for symbol in functional.outputs]


def _outputs(node, known: dict[int, Tensor], name: str) -> list[Tensor]:
    """The tensors a call makes: as Keras recorded them, or worked out anew for one sample.

    A bare `keras.ops.reshape` may fold the sample axis into another, and a nested model may
    have been built for shapes that only its caller fixes: there the recorded shape is no help.
    """
    read, symbols = graph.input_tensors(node), graph.output_tensors(node)
    given = [known[id(symbol)] for symbol in read]

    def arguments():
        specs = (keras.KerasTensor(tensor.shape, tensor.dtype) for tensor in given)
        return graph.fill_in(node, {id(symbol): spec for symbol, spec in zip(read, specs)})

    if not isinstance(node.operation, keras.layers.Layer) or any(
        tensor.shape != _one_sample(symbol.shape) for symbol, tensor in zip(read, given)
    ):
        args, kwargs = arguments()
        symbols = keras.tree.flatten(node.operation.compute_output_spec(*args, **kwargs))
    is_open = any(None in _one_sample(symbol.shape) for symbol in symbols)
    if is_open and all(None not in tensor.shape for tensor in given):
        symbols = keras.tree.flatten(graph.traced_spec(node.operation, *arguments()))
    return [Tensor(_one_sample(symbol.shape), symbol.dtype, name) for symbol in symbols]


def _filled(shape: tuple, given: tuple) -> tuple:
    """A shape, its open lengths taken from another of as many axes."""
    if len(shape) != len(given):
        return shape
    return tuple(other if n is None else n for n, other in zip(shape, given))


def _one_sample(shape: tuple) -> tuple:
    return tuple(1 if axis == 0 and n is None else n for axis, n in enumerate(shape))
