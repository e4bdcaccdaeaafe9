"""Operations on several tensors, element by element, and concatenation."""

from __future__ import annotations

import keras
import numpy as np

from keras_dynhp.graph import labels as lb
from keras_dynhp.graph.registry import rule_for

layers = keras.layers


@rule_for(
    layers.Add,
    layers.Subtract,
    layers.Multiply,
    layers.Average,
    layers.Maximum,
    layers.Minimum,
)
def merge(call):
    """Channels at the same place go together."""
    result, shape = call.inputs[0], call.input_shapes[0]
    for labels, other in zip(call.inputs[1:], call.input_shapes[1:]):
        # Keras's merge layers insert ones behind the batch axis of the shorter shape.
        while len(other) < len(shape):
            labels, other = labels[:, None], (other[0], 1, *other[1:])
        while len(shape) < len(other):
            result, shape = result[:, None], (shape[0], 1, *shape[1:])
        first = shape
        result, shape = join(call, result, shape, labels, other)
        if isinstance(call.layer, (layers.Add, layers.Average)):
            keep_from_keras_add(call, result, first, other)
    return result


@rule_for(
    "Add",
    "Subtract",
    "Multiply",
    "Divide",
    "DivideNoNan",
    "TrueDivide",
    "FloorDivide",
    "Maximum",
    "Minimum",
    "Fmax",
    "Fmin",
    "Mod",
    "Power",
    "Arctan2",
    "Hypot",
    "Logaddexp",
    "Logaddexp2",
    "Heaviside",
    "Fmod",
    "Greater",
    "GreaterEqual",
    "Less",
    "LessEqual",
    "Equal",
    "NotEqual",
    "LogicalAnd",
    "LogicalOr",
    "LogicalXor",
    "Where",
)
def arithmetic(call):
    """As `merge`, with NumPy's broadcasting and constants among the operands."""
    operands = keras.tree.flatten((call.args, call.kwargs))
    result, shape, symbolic = None, (), 0
    for operand in operands:
        if operand is None:
            continue
        if isinstance(operand, keras.KerasTensor):
            labels, own = call.inputs[symbolic], call.input_shapes[symbolic]
            symbolic += 1
        else:
            own = np.shape(operand)
            labels = lb.blank(len(own), call.fixed(f"meets a constant in {call.path}"))
        if result is None:
            result, shape = labels, own
            continue
        rank = max(len(shape), len(own))
        result, shape = _pad(result, shape, rank)
        labels, own = _pad(labels, own, rank)
        first = shape
        result, shape = join(call, result, shape, labels, own)
        if type(call.layer).__name__ == "Add":
            keep_from_keras_add(call, result, first, own)
    return result


def keep_from_keras_add(call, labels, one, other):
    """Keep channels whose number could make Keras add along the wrong axis.

    `keras.ops.add` takes a second operand with a single axis longer than 1 for a vector of biases,
    and adds it along the last axis or axis 1, whichever has its length (Keras 3.15).
    """
    for axis in lb.varying(labels):
        size = max(shape[axis] or 0 for shape in (one, other))
        # Only a length that some axis has can be mistaken for it.
        for count in {1, size} | {dim for dim in (*one, *other) if dim and dim < size}:
            shapes = [
                tuple(count if a == axis and d == size else d for a, d in enumerate(shape))
                for shape in (one, other)
            ]
            if _adds_elsewhere(*shapes):
                call.pin(labels, "Keras may add a tensor of this shape along the wrong axis")
                return


def _adds_elsewhere(one, other) -> bool:
    """Whether Keras would add `other` to `one` along an axis on which it does not lie."""
    long = [a for a, dim in enumerate(other) if dim != 1 and (a or dim is not None)]
    if len(long) != 1 or len(one) < 2:
        return False
    (axis,), size = long, other[long[0]]
    ends = [len(one) - 1, 1]  # the last axis is looked at first
    met = [a for a in ends if one[a] != 1 and (None in (one[a], size) or one[a] == size)]
    return bool(met) and met[0] != axis


def _pad(labels, shape, rank):
    extra = rank - len(shape)
    return labels.reshape((1,) * extra + labels.shape), (1,) * extra + tuple(shape)


def join(call, a, a_shape, b, b_shape):
    """The labels of an elementwise operation on two tensors of the same rank.

    A tensor that has size 1 wherever the other's channels lie is broadcast over them: nothing in
    it has to go when a channel goes.
    """
    shape = tuple(
        two if one == 1 else one if two == 1 else (one if one is not None else two)
        for one, two in zip(a_shape, b_shape)
    )
    a_axes, b_axes = lb.varying(a), lb.varying(b)
    b_follows = any(b_shape[axis] != 1 for axis in a_axes)
    a_follows = any(a_shape[axis] != 1 for axis in b_axes)
    if not a_axes and not b_axes:
        # Neither is written out: both are fixed, or the same everywhere.
        fixed = a if int(a.flat[0]) < 0 else b
        return (fixed if (a < 0).all() or (b < 0).all() else a), shape
    if a_axes and b_axes and not (a_follows or b_follows):
        return call.barrier("spreads two kinds of channels over two axes")[0], shape
    if not b_follows and not a_follows:
        return (a if a_axes else b), shape
    if (a_axes and not b_follows) or (b_axes and not a_follows):
        # One is broadcast over the other's channels but has channels of its own elsewhere.
        return call.barrier("spreads two kinds of channels over two axes")[0], shape
    call.couple(a, b)
    wide_a, wide_b = np.broadcast_arrays(a, b)
    return lb.compress(np.where(wide_a < 0, wide_a, wide_b)), shape


@rule_for(layers.Concatenate)
def concatenate_layer(call):
    """Channels side by side."""
    return concatenate(call, call.layer.axis)


@rule_for("Concatenate")
def concatenate_operation(call):
    """Channels side by side, as a bare operation."""
    if any(not isinstance(x, keras.KerasTensor) for x in call.args[0]):
        return call.barrier("joins a constant")
    return concatenate(call, call.layer.axis)


def concatenate(call, axis):
    """Other axes must carry the same channels in every tensor."""
    axis %= len(call.output_shapes[0])
    parts = []
    across = np.broadcast_shapes(*[_without(x.shape, axis) for x in call.inputs])
    for labels, shape in zip(call.inputs, call.input_shapes):
        if shape[axis] is None:
            return call.barrier("joins along an axis of unknown length")
        target = list(across)
        target[axis] = shape[axis]
        parts.append(np.broadcast_to(labels, target))
    vary = {a for labels in call.inputs for a in lb.varying(labels)} - {axis}
    if vary:
        reference = parts[0].take([0], axis=axis)
        for part in parts:
            call.couple(reference, part)
        return np.ascontiguousarray(reference)
    for part in parts:
        call.section(part)
    return call.moved(np.concatenate(parts, axis=axis))


def _without(shape, axis):
    return tuple(1 if a == axis else dim for a, dim in enumerate(shape))
