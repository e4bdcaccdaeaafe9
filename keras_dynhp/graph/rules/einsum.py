"""Products of tensors along axes: EinsumDense, einsum, matmul, Dot."""

from __future__ import annotations

import string

import keras
import numpy as np

from keras_dynhp.graph import labels as lb
from keras_dynhp.graph.call import is_symbolic
from keras_dynhp.graph.records import ADAPTED, ALONG, IN, OUT
from keras_dynhp.graph.registry import rule_for
from keras_dynhp.graph.rules.activation import mixes_channels
from keras_dynhp.keras_state.graph import is_adapted

layers = keras.layers


def _letters(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """The subscripts of every operand and of the result, with the dots spelled out."""
    equation = equation.replace(" ", "")
    left, _, right = equation.partition("->")
    operands = left.split(",")
    if "->" not in equation:
        used = "".join(operands).replace(".", "")
        right = "".join(sorted(c for c in set(used) if used.count(c) == 1))
        right = "..." * any("..." in one for one in operands) + right
    free = [c for c in reversed(string.ascii_uppercase) if c not in equation]
    widest = max(
        (rank - len(one.replace("...", "")) for one, rank in zip(operands, ranks) if "..." in one),
        default=0,
    )
    dots = "".join(free[:widest])

    def spell(one: str, rank: int | None) -> str:
        if "..." not in one:
            return one
        count = widest if rank is None else rank - len(one.replace("...", ""))
        return one.replace("...", dots[len(dots) - count :])

    return [spell(one, rank) for one, rank in zip(operands, ranks)], spell(right, None)


@rule_for(layers.EinsumDense)
def einsum_dense(call):
    """Reads the axes that its kernel sums over, makes the axes that only its kernel has.

    Of several such axes one is followed: the one with channels on it, or the longest.
    """
    layer, shape = call.layer, call.input_shapes[0]
    if is_adapted(layer):
        return call.barrier(ADAPTED)
    kernel = layer._kernel
    (given, weights), made = _letters(layer.equation, [len(shape), len(kernel.shape)])
    if len(set(weights)) < len(weights) or len(set(given)) < len(given):
        return call.barrier("takes a diagonal")
    size = dict(zip(weights, kernel.shape))
    on = {given[axis] for axis in call.varies()}
    summed = [c for c in given if c not in made and c in weights]
    if on & {c for c in given if c not in made and c not in weights}:
        return call.barrier("sums channels without weights")
    known: dict[str, tuple] = {}
    if summed and (not on or on & set(summed)):
        letter = next((c for c in summed if c in on), max(summed, key=lambda c: (size[c], c)))
        known[letter] = (call.read(0, given.index(letter)), IN)
    passing = [c for c in made if c in given and c in on]
    fresh = [c for c in made if c not in given]
    result = None
    if passing:
        result = passing[0]
        vector = call.channels(0, given.index(result))
        known[result] = (vector, ALONG)
    elif fresh:
        fresh = [c for c in fresh if _bias_allows(layer, made, size, c)] or fresh
        result = max(fresh, key=lambda c: (size[c], made.index(c)))
        vector = call.produce(size[result])
        known[result] = (vector, OUT)
    call.label(kernel, *[known.get(c) for c in weights])
    if layer.bias is not None:
        # The bias has the axes named in bias_axes, in the order of the output, and ones after.
        first = min(made.index(c) for c in layer.bias_axes)
        here = [c if c in layer.bias_axes else None for c in made[first:]]
        call.label(layer.bias, *[known.get(c) for c in here])
    if result is None:
        return call.opaque("a sum made by")
    place = made.index(result)
    why = mixes_channels(layer.activation)
    if why:
        call.pin(vector, why)

    def write(config, survivors, labels):
        target = config["output_shape"]
        target = [target] if isinstance(target, int) else list(target)
        entry = place - len(made)  # counted from the end: the batch axis is left out
        if target[entry] is not None:
            target[entry] = survivors.count(labels)
        config["output_shape"] = tuple(target)

    call.resize("output_shape", vector, write)
    if not _bias_allows(layer, made, size, result):
        call.pin(vector, "Keras may add a bias of this shape along the wrong axis")
    return call.along(vector, place)


def _bias_allows(layer, made: str, size: dict[str, int], letter: str) -> bool:
    """Whether the axis can shrink to any length without meeting a mistake of Keras.

    `keras.ops.add` takes a bias with a single axis longer than 1 for a vector, and adds it along
    the last axis or axis 1, whichever has its length (Keras 3.15).
    """
    long = [c for c in made if c in (layer.bias_axes or "") and size.get(c, 2) > 1]
    if not long or long == [made[-1]] or len(long) > 2:
        return True
    if len(long) == 2:
        return letter not in long or (letter == long[0] and long[1] == made[-1])
    return False


def product(call, operands, subscripts: list[str], made: str):
    """The labels of an einsum over labels: `operands` are numbers of inputs, None for constants.

    A sum over channels of two tensors treats zero as absent, whichever of them is zero.
    """
    holds: dict[str, np.ndarray] = {}
    for number, letters in zip(operands, subscripts):
        if number is None:
            continue
        for axis in call.varies(number):
            letter = letters[axis]
            if letter not in made:
                vector = call.read(number, axis, weightless=True)
            else:
                vector = call.channels(number, axis)
            if letter in holds:
                call.couple(holds[letter], vector)
            holds[letter] = vector
    for number, letters in zip(operands, subscripts):
        for axis, letter in enumerate(letters):
            if letter not in holds or (number is not None and axis in call.varies(number)):
                continue
            if number is None:
                call.pin(holds[letter], "meets a constant")
            elif call.input_shapes[number][axis] != 1:
                call.couple(holds[letter], call.channels(number, axis))
    kept = [letter for letter in made if letter in holds]
    if len(kept) > 1:
        return call.barrier("spreads channels over two axes")
    if kept:
        return call.along(holds[kept[0]], made.index(kept[0]))
    return call.opaque("a product made by")


def _numbered(call, operands):
    """For every operand its number among the inputs, None for a constant."""
    return [call.index_of(x) if is_symbolic(x) else None for x in operands]


@rule_for("Einsum")
def einsum(call):
    """Any sum of products."""
    operands = list(call.args)
    subscripts, made = _letters(call.layer.subscripts, [len(np.shape(x)) for x in operands])
    if any(len(set(s)) < len(s) for s in subscripts):
        return call.barrier("takes a diagonal")
    return product(call, _numbered(call, operands), subscripts, made)


@rule_for("Matmul")
def matmul(call):
    """The last axis of one with the last but one of the other."""
    one, other = (*call.args, *call.kwargs.values())
    ranks = [len(np.shape(one)), len(np.shape(other))]
    if min(ranks) < 2:
        return call.barrier("multiplies with a vector")
    batch = "ABCDEFGH"[: max(ranks) - 2]
    subscripts = [
        batch[len(batch) - ranks[0] + 2 :] + "xy",
        batch[len(batch) - ranks[1] + 2 :] + "yz",
    ]
    return product(call, _numbered(call, [one, other]), subscripts, batch + "xz")


@rule_for(layers.Dot)
def dot(call):
    """Sums over one axis of each of two tensors."""
    axes = call.layer.axes
    ranks = [len(shape) for shape in call.input_shapes]
    axes = [axes, axes] if isinstance(axes, int) else list(axes)
    axes = [axis % rank for axis, rank in zip(axes, ranks)]
    one = ["b", *"cdefgh"[: ranks[0] - 1]]
    other = ["b", *"nopqrs"[: ranks[1] - 1]]
    one[axes[0]] = other[axes[1]] = "x"
    made = "".join([c for c in one if c != "x"] + [c for c in other if c not in "bx"])
    if call.layer.normalize:
        for number, axis in enumerate(axes):
            if set(call.varies(number)) - {axis}:
                return call.barrier("normalizes along another axis than the channels'")
    if made == "b":  # Keras keeps an axis of length 1
        product(call, [0, 1], ["".join(one), "".join(other)], made)
        return lb.blank(2, call.fixed(f"a product made by {call.path}"))
    return product(call, [0, 1], ["".join(one), "".join(other)], made)
