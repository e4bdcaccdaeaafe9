"""Data movement: reshapes, transposes, repeats. The labels move as the numbers do."""

from __future__ import annotations

import math

import keras
import numpy as np

from keras_dynhp.graph import labels as lb
from keras_dynhp.graph.registry import rule_for, zero_kept_by
from keras_dynhp.graph.rules.convolution import channel_axis

layers = keras.layers
zero_kept_by(
    layers.Flatten, layers.Reshape, layers.Permute, layers.RepeatVector, "Reshape", "Transpose"
)
# Stands for an axis of unknown length while labels are reshaped; any number above 1 would do.
UNKNOWN = 2


def written_out(call, index=0):
    """The labels of an input along every axis, its batch counted as 1."""
    shape = call.input_shapes[index]
    full = (1, *lb.static_shape(shape[1:], UNKNOWN)) if shape else ()
    return lb.expand(call.inputs[index], full)


def _fit(call, labels):
    """Fold the batch and axes of unknown length of an output back to 1."""
    for axis, dim in enumerate(call.output_shapes[0]):
        if (dim is None or axis == 0) and labels.shape[axis] > 1:
            first = labels.take([0], axis=axis)
            if not (labels == first).all():
                return None
            labels = first
    return labels


def reshape(call, target, write):
    """To `target` (batch included); sizes of axes that hold channels follow the survivors."""
    full = written_out(call)
    known = [1] + [UNKNOWN if dim is None else dim for dim in call.output_shapes[0][1:]]
    if math.prod(known) != full.size:
        # Two unknown axes were folded into one: let NumPy work out the one that is left.
        known = [1] + [-1 if dim is None else dim for dim in call.output_shapes[0][1:]]
    if len(call.input_shapes[0]) and call.output_shapes[0][0] is not None:
        same_batch = call.output_shapes[0][0] == call.input_shapes[0][0]
        if not same_batch and len(lb.varying(call.inputs[0])):
            return call.barrier("reshapes the batch axis")
    try:
        moved = _fit(call, full.reshape(known))
    except ValueError:
        moved = None
    if moved is None:
        return call.barrier("reshapes axes whose lengths are unknown")
    moved = call.moved(moved)
    for axis in lb.varying(moved):
        if target[axis] not in (-1, None):
            vector = lb.axis_vector(moved, axis, call.output_shapes[0][axis])
            call.resize(
                ("target", axis), vector, lambda c, s, v, axis=axis: write(c, axis, s.count(v))
            )
    return moved


@rule_for(layers.Flatten)
def flatten(call):
    """Every channel is repeated at every position."""
    shape = call.input_shapes[0]
    if len(shape) < 2:
        return call.barrier("flattens a tensor without channels")
    labels = call.inputs[0]
    if layer_moves_channels_last(call):
        labels = np.moveaxis(labels, 1, -1)
        shape = (shape[0], *shape[2:], shape[1])
    if any(dim is None for dim in shape[1:]):
        return call.inputs[0] if len(shape) == 2 else call.barrier("flattens unknown lengths")
    return lb.compress(lb.expand(labels, (1, *shape[1:])).reshape(1, -1))


def layer_moves_channels_last(call):
    """Flatten of a channels-first tensor puts the channels last before it flattens."""
    return channel_axis(call.layer) == 1 and len(call.input_shapes[0]) > 1


@rule_for(layers.Reshape)
def reshape_layer(call):
    """Reshape; `target_shape` leaves out the batch."""

    def write(config, axis, count):
        target = list(config["target_shape"])
        target[axis - 1] = count
        config["target_shape"] = tuple(target)

    return reshape(call, (None, *call.layer.target_shape), write)


@rule_for("Reshape")
def reshape_operation(call):
    """Reshape as a bare operation; `newshape` holds the batch too."""

    def write(config, axis, count):
        target = list(config["newshape"])
        target[axis] = count
        config["newshape"] = tuple(target)

    shape = call.layer.newshape
    return reshape(call, (shape,) if isinstance(shape, int) else tuple(shape), write)


@rule_for("Ravel")
def ravel(call):
    """Joins the batch too."""
    return call.barrier("joins the batch with other axes")


@rule_for(layers.Permute)
def permute(call):
    """Permute; axes are counted from 1, the batch left out."""
    return np.transpose(call.inputs[0], (0, *call.layer.dims))


@rule_for("Transpose")
def transpose(call):
    """Transpose as a bare operation."""
    return np.transpose(call.inputs[0], call.layer.axes)


@rule_for("Swapaxes")
def swapaxes(call):
    """Two axes change places."""
    return np.swapaxes(call.inputs[0], call.layer.axis1, call.layer.axis2)


@rule_for("Moveaxis")
def moveaxis(call):
    """Axes move."""
    return np.moveaxis(call.inputs[0], call.layer.source, call.layer.destination)


@rule_for("ExpandDims")
def expand_dims(call):
    """A new axis of length 1."""
    return np.expand_dims(call.inputs[0], call.layer.axis)


@rule_for("Squeeze")
def squeeze(call):
    """Axes of length 1 vanish."""
    axes = call.layer.axis
    if axes is None:
        axes = tuple(a for a, dim in enumerate(call.input_shapes[0]) if dim == 1)

        def write(config, survivors, vector):
            config["axis"] = axes  # or an axis of which one channel is left would vanish, too

        call.resize("axis", np.zeros(0, np.int64), write)
    return np.squeeze(call.inputs[0], tuple(axes) if isinstance(axes, (list, tuple)) else axes)


@rule_for(layers.RepeatVector)
def repeat_vector(call):
    """(batch, features) becomes (batch, n, features)."""
    return call.inputs[0][:, None, :]


@rule_for("BroadcastTo")
def broadcast_to(call):
    """New axes in front; the others as they were."""
    labels = call.inputs[0]
    grown = labels.reshape((1,) * (len(call.output_shapes[0]) - labels.ndim) + labels.shape)

    for axis in lb.varying(grown):

        def write(config, survivors, vector, axis=axis):
            shape = list(config["shape"])
            shape[axis] = survivors.count(vector)
            config["shape"] = tuple(shape)

        vector = lb.axis_vector(grown, axis, call.output_shapes[0][axis])
        call.resize(("shape", axis), vector, write)
    return grown


@rule_for("Pad")
def pad(call):
    """Zeros around other axes than the channels'."""
    widths = np.broadcast_to(np.asarray(call.layer.pad_width), (call.inputs[0].ndim, 2))
    if any(widths[axis].any() for axis in lb.varying(call.inputs[0])):
        return call.barrier("pads the axis along which channels lie")
    return call.inputs[0]


@rule_for("Tile", "Repeat")
def positions_only(call):
    """Copies positions; along the channels' axis that could not be undone by counting."""
    labels = call.inputs[0]
    axes = lb.varying(labels)
    grown = len(call.output_shapes[0]) - labels.ndim
    wide = labels.reshape((1,) * grown + labels.shape)
    same = all(call.output_shapes[0][axis + grown] == call.input_shapes[0][axis] for axis in axes)
    if not same:
        return call.barrier("copies channels")
    return wide


@rule_for("Roll")
def roll(call):
    """Shifts positions; of channels, those that go would be missing from the shift."""
    labels, axis = call.inputs[0], call.layer.axis
    shifted = range(labels.ndim) if axis is None else np.atleast_1d(axis) % labels.ndim
    if set(shifted) & set(lb.varying(labels)):
        return call.barrier("shifts channels")
    return labels


@rule_for("Stack")
def stack(call):
    """A new axis over tensors that must carry the same channels."""
    axis = call.layer.axis % len(call.output_shapes[0])
    wide = np.broadcast_arrays(*call.inputs)
    for other in wide[1:]:
        call.couple(wide[0], other)
    return np.expand_dims(np.ascontiguousarray(wide[0]), axis)


def _takes_zero_for_nothing(layer) -> bool:
    if type(layer).__name__ == "Norm":
        return layer.ord is None or (not isinstance(layer.ord, str) and layer.ord > 0)
    return type(layer).__name__ in ("Sum", "Nansum", "Any")


@rule_for(
    "Mean",
    "Max",
    "Amax",
    "Min",
    "Amin",
    "Sum",
    "Prod",
    "Var",
    "Std",
    "Any",
    "All",
    "Median",
    "Argmax",
    "Argmin",
    "Logsumexp",
    "Nanmax",
    "Nanmean",
    "Nanmedian",
    "Nanmin",
    "Nanprod",
    "Nanstd",
    "Nansum",
    "Nanvar",
    "Ptp",
    "Norm",
)
def reduction(call):
    """Reductions over other axes leave channels alone; a sum (or any) over channels reads them."""
    layer, labels, rank = call.layer, call.inputs[0], len(call.input_shapes[0])
    axes = layer.axis
    if axes is None:
        axes = range(rank)
    axes = {axis % rank for axis in (axes if hasattr(axes, "__iter__") else [axes])}
    if axes & set(lb.varying(labels)):
        single = len(lb.varying(labels)) == 1
        if not (single and _takes_zero_for_nothing(layer)):
            return call.barrier("reduces over channels, where a zero would still count")
        call.read(0, lb.varying(labels)[0], weightless=True)
        return lb.blank(len(call.output_shapes[0]), call.fixed(f"a sum made by {call.path}"))
    if layer.keepdims:
        return labels
    return np.squeeze(labels, tuple(axes))
