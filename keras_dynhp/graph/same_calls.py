"""Whether two traces of a layer's call are the same graph."""

from __future__ import annotations

import contextlib
import functools
import inspect

import keras
import numpy as np

from keras_dynhp.keras_state import graph as ks


class NotOpened(ValueError):
    """Why a layer's `call()` can't be written as a graph."""


def calls_of(model: keras.Model) -> list[tuple[object, list[tuple]]]:
    """Every call in a graph: what is called, and on what, tensors being numbered."""
    numbers: dict[int, int] = {}
    calls = []
    for node in ks.nodes_in_order(model):
        if not ks.is_input(node):
            calls.append((node.operation, numbered(ks.call_arguments(node), numbers)))
        for tensor in ks.output_tensors(node):
            numbers[id(tensor)] = len(numbers)
    _, outputs = ks.structure(model)
    return [*calls, (None, numbered(outputs, numbers))]


def numbered(values, numbers: dict[int, int]) -> list[tuple]:
    """Nested values flat, each with its path in them; a symbolic tensor is its number."""
    return [
        (path, _Number(numbers[id(one)]) if isinstance(one, keras.KerasTensor) else one)
        for path, one in keras.tree.flatten_with_path(values)
    ]


class _Number(int):
    """Which symbolic tensor; no number of the user's is one."""


def check_alike(calls, others, layer) -> None:
    """Refuse what differs between two traces, but for what says whether it is training."""
    inside = ks.with_inner(layer)
    if len(calls) != len(others):
        raise NotOpened("its call() does something else in training than in inference")
    for (operation, given), (other, given_then) in zip(calls, others):
        name = "the output" if operation is None else f"{operation.name!r}"
        if operation is not other:
            if type(operation) is not type(other):
                raise NotOpened("its call() does something else in training than in inference")
            if isinstance(operation, keras.layers.Layer):
                raise NotOpened(
                    f"its call() makes {name} anew, or calls different ones in training"
                )
            if not alike(_attributes(operation), _attributes(other)):
                raise NotOpened("its call() does something else in training than in inference")
        told, told_then = _training(given), _training(given_then)
        if (told, told_then) not in ((None, None), (False, True)):
            said = told_then if told == told_then else "something else than it is told"
            raise NotOpened(f"its call() always tells {name} training={said}")
        if told is False and _by_default(layer) not in (None, _by_default(operation) or False):
            raise NotOpened(f"{name} trains by default, and it does not")
        if not alike(given, given_then, without="training"):
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
        check_functions(name, [value for _, value in given], inside)


def check_functions(name: str, values, inside, own=()) -> None:
    """Refuse functions through which something computes with weights of layers not its own."""
    weights = {id(v) for one in inside for v in (one, *one.variables)}
    weights -= {id(v) for one in own for v in (one, *one.variables)}
    for value in values:
        if weights & _reached_by(value):
            raise NotOpened(f"{name} is given a function that may compute with weights of others")


def functions_in(values: dict) -> list:
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


def _attributes(operation) -> list[tuple]:
    return keras.tree.flatten_with_path(ks.given_attributes(operation))


def _training(given) -> bool | None:
    return next((value for path, value in given if path[-1:] == ("training",)), None)


def alike(given, others, without: str | None = None) -> bool:
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
