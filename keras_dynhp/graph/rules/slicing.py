"""Parts of a tensor: indexing, splitting, taking. What is cut follows the survivors."""

from __future__ import annotations

import itertools

import numpy as np

from keras_dynhp.graph import labels as lb
from keras_dynhp.graph.registry import rule_for
from keras_dynhp.graph.rules.shaping import written_out


@rule_for("GetItem")
def getitem(call):
    """`x[:, 2:8]`: bounds along a channel axis move with the channels before them."""
    key = call.args[1] if len(call.args) > 1 else call.kwargs["key"]
    if isinstance(key, list) and not all(isinstance(k, int) for k in key):
        key = tuple(key)  # what a file makes of a tuple; a list of numbers picks rows
    key = key if isinstance(key, tuple) else (key,)
    rank = len(call.input_shapes[0])
    if any(not isinstance(k, (int, slice, type(None), type(Ellipsis))) for k in key):
        return call.barrier("is indexed by something else than numbers and slices")
    plain = _without_ellipsis(key, rank)
    changed: dict[int, np.ndarray] = {}
    labels, axis = call.inputs[0], 0
    picks = []
    for entry in plain:
        if entry is None:
            picks.append(None)
            continue
        dim = call.input_shapes[0][axis]
        if axis in lb.varying(labels):
            if isinstance(entry, slice) and entry.step not in (None, 1):
                return call.barrier("takes every so many channels")
            changed[axis] = lb.axis_vector(labels, axis, dim)
            picks.append(entry)
        else:
            # The labels do not vary here, so position 0 stands for all of them.
            picks.append(0 if isinstance(entry, int) else slice(None))
        axis += 1
    result = lb.compress(np.asarray(labels[tuple(picks)]))
    if result.ndim != len(call.output_shapes[0]):
        return call.barrier("has an index that is not followed")
    for axis, vector in changed.items():
        entry = [k for k in plain if k is not None][axis]
        if isinstance(entry, int):
            call.pin(vector[[entry]], "picked by its position")
        else:
            call.section(vector[entry])

    def change(args, kwargs, survivors):
        new, axis = [], 0
        for entry in plain:
            if entry is None:
                new.append(None)
                continue
            new.append(_move(entry, changed[axis], survivors) if axis in changed else entry)
            axis += 1
        return (args[0], tuple(new)), {}

    if changed:
        call.rewrite(change)
    return result


def _without_ellipsis(key, rank):
    given = sum(1 for k in key if k is not None and k is not Ellipsis)
    filler = (slice(None),) * (rank - given)
    if Ellipsis in [k for k in key if k is None or k is Ellipsis]:
        at = next(i for i, k in enumerate(key) if k is Ellipsis)
        return key[:at] + filler + key[at + 1 :]
    return key + filler


def _move(entry, vector, survivors):
    before = np.concatenate([[0], np.cumsum(survivors.mask(vector))])
    if isinstance(entry, int):
        return int(before[entry % len(vector)])
    start, stop, _ = entry.indices(len(vector))
    return slice(int(before[start]), int(before[max(start, stop)]))


@rule_for("Split", "ArraySplit")
def split(call):
    """Parts of one axis; where channels lie there, the cuts move."""
    axis = call.layer.axis % len(call.input_shapes[0])
    size = call.input_shapes[0][axis]
    sizes = [shape[axis] for shape in call.output_shapes]
    labels = call.inputs[0]
    if axis not in lb.varying(labels):
        return [labels] * len(sizes)
    cuts = [0, *itertools.accumulate(sizes)]
    vector = lb.axis_vector(labels, axis, size)
    outputs = []
    for start, stop in itertools.pairwise(cuts):
        part = labels.take(range(start, stop), axis=axis)
        call.section(part)
        outputs.append(lb.compress(part))

    def write(config, survivors, vector):
        before = np.concatenate([[0], np.cumsum(survivors.mask(vector))])
        config["indices_or_sections"] = [int(before[cut]) for cut in cuts[1:-1]]

    call.resize("indices_or_sections", vector, write)
    return outputs


@rule_for("Unstack")
def unstack(call):
    """One tensor for every position of an axis."""
    axis = call.layer.axis % len(call.input_shapes[0])
    labels = call.inputs[0]
    if axis in lb.varying(labels):
        return call.barrier("makes one tensor of every channel")
    return [np.squeeze(labels, axis)] * len(call.output_shapes)


@rule_for("Take")
def take(call):
    """Positions by their number, as constants: the numbers follow the survivors."""
    indices = call.args[1] if len(call.args) > 1 else call.kwargs["indices"]
    axis = call.layer.axis
    labels, rank = call.inputs[0], len(call.input_shapes[0])
    if axis is None or not isinstance(indices, (list, tuple, np.ndarray)) or np.ndim(indices) != 1:
        if len(call.inputs) == 1 and axis is not None and axis % rank not in lb.varying(labels):
            return call.barrier("takes positions that are not a list of constants")
        return call.barrier("takes positions that are only known when it runs")
    axis %= rank
    indices = np.asarray(indices)
    if call.input_shapes[0][axis] is None:
        return call.barrier("takes from an axis of unknown length")
    full = lb.axis_vector(labels, axis, call.input_shapes[0][axis])
    raw = labels.size == 1 and int(labels.flat[0]) in call.trace.raw
    if raw and call.trace.prune_inputs:
        # A selection of input features made by an earlier rebuild: choose among what it kept.
        vector = call.produce(len(indices))
    elif set(lb.varying(labels)) <= {axis}:
        vector = full[indices]
    else:
        return call.barrier("takes positions of one axis while channels lie on another")

    def change(args, kwargs, survivors):
        place = np.cumsum(survivors.mask(full)) - 1
        kept = place[indices[survivors.keep(vector)]]
        return (args[0], [int(i) for i in kept]), {}

    call.rewrite(change)
    call.section(vector)
    return call.along(vector, axis)


@rule_for("Flip")
def flip(call):
    """Backwards along some axes."""
    axes = call.layer.axis
    flipped = np.flip(written_out(call), tuple(axes) if isinstance(axes, list) else axes)
    return lb.compress(flipped)
