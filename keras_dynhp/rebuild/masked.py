"""add_masks and rebuild: a masked copy of a model, and the smaller model it stands for."""

from __future__ import annotations

import contextlib
import re

import keras
import numpy as np

from keras_dynhp.graph import labels as lb
from keras_dynhp.graph.groups import ChannelGroups, check_model, find_groups
from keras_dynhp.graph.survivors import Survivors
from keras_dynhp.graph.trace import Trace, trace_model
from keras_dynhp.keras_state import graph as ks
from keras_dynhp.layers.masked_reads import MaskedReads
from keras_dynhp.layers.neuron_mask import Index, NeuronMask
from keras_dynhp.rebuild.clone import clone_model
from keras_dynhp.rebuild.moves import settle, transfers
from keras_dynhp.rebuild.plan import RebuildPlan, plan_rebuild


def add_masks(model: keras.Model, prune_inputs: bool = False) -> keras.Model:
    """A copy of a model with one `NeuronMask` for every prunable channel group.

    The layer `mask_<group>` is shared by all places where the group is read, and stands in front
    of each. All masks start at 1.0, so the copy computes what the model computes. The given model
    is left alone; the copy has its own variables with the same values, and is not compiled.

    Args:
        model: a built Sequential or Functional model.
        prune_inputs: mask the model's input features too.

    Returns:
        A Functional model.

    Raises:
        TypeError, ValueError: as `find_groups`.

    Example:

    >>> import keras, keras_dynhp as dynhp
    >>> model = keras.Sequential(
    ...     [keras.Input((8,)), keras.layers.Dense(6, name="a"), keras.layers.Dense(3, name="b")]
    ... )
    >>> masked = dynhp.add_masks(model)
    >>> masked.get_layer("mask_a").mask.assign([1, 0, 1, 0, 1, 0]) is None or True
    True
    >>> dynhp.rebuild(masked).get_layer("a").units
    3
    """
    groups = find_groups(model, prune_inputs)
    everything = Survivors(np.ones(groups.trace.units.count, bool))
    clone = clone_model(groups.trace, everything, _Masks(groups))
    for move in transfers(groups.trace, clone, {}):
        move.new.assign(move.old)
    settle(groups.trace, clone)
    return clone.model


class _Masks:
    """One `NeuronMask` for every group, wherever the group is read.

    Keras can't load a layer that stands both in a model and in a model inside it, so there the
    inner model gets a layer of its own, which shares the weight.
    """

    def __init__(self, groups: ChannelGroups):
        self.groups = groups
        self.layers: dict[tuple[int, int], NeuronMask] = {}  # (group, model) -> layer
        self.first: dict[int, NeuronMask] = {}
        self.models: list[int] = []
        self._unread = groups.unread()  # for every unit
        functional = ks.functional_of(groups.trace.model)
        self._taken = {node.operation.name for node in ks.nodes_in_order(functional)}

    @contextlib.contextmanager
    def inside(self, model: keras.Model):
        """While this model is made anew."""
        self.models.append(id(model))
        yield
        self.models.pop()

    def of(self, number: int) -> NeuronMask:
        """The mask of a group, for the model that is being made."""
        key = (number, self.models[-1])
        if key not in self.layers:
            first = self.first.get(number)
            size = self.groups[number].size
            name = self._name(number) if first is None else first.name
            self.layers[key] = NeuronMask(size, weight_of=first, name=name)
            self.first.setdefault(number, self.layers[key])
        return self.layers[key]

    def _name(self, number: int) -> str:
        name = "mask_" + re.sub("[/:#]", "_", self.groups[number].name)
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def _entries(self, vector: np.ndarray):
        for number, index in self.groups.neurons_of(vector).items():
            mask = self.of(number)
            plain = np.array_equal(index, np.arange(mask.neurons))
            yield mask, None if plain else index.tolist()

    def in_front(self, labels: np.ndarray, axis: int, tensor):
        """Masks on a tensor, in front of a place that mixes its channels along `axis`."""
        for mask, index in self._entries(lb.axis_vector(labels, axis, tensor.shape[axis])):
            where = {} if axis == len(tensor.shape) - 1 else {"axis": axis}
            if index is not None:
                where["index"] = Index(index)
            tensor = mask(tensor, **where)
        return tensor

    def behind(self, labels: np.ndarray, tensor):
        """Masks on neurons that nothing reads, where they are first seen."""
        axes = lb.varying(labels)
        if not self._unread.any() or len(axes) != 1:
            return tensor
        vector = lb.axis_vector(labels, axes[0], labels.shape[axes[0]])
        unread = np.where((vector >= 0) & self._unread[np.maximum(vector, 0)], vector, -1)
        self._unread[unread[unread >= 0]] = False
        return self.in_front(lb.on_axis(labels.ndim, axes[0], unread), axes[0], tensor)

    def around(self, layer, reads: list, old):
        """Masks on what a layer reads inside itself."""
        order = {id(variable): number for number, variable in enumerate(old.variables)}
        found = [
            (order[id(read.variable)], read.axis, mask, index)
            for read in reads
            for mask, index in self._entries(read.vector)
        ]
        if not found:
            return layer
        layer.build_from_config(old.get_build_config())
        return MaskedReads(layer, found, name=layer.name)


def rebuild(model: keras.Model, allow_layer_removal: bool = False) -> keras.Model:
    """The plain, smaller model that computes what a masked model computes.

    Every neuron that is masked wherever it is read is removed from every variable that mentions
    it. The given model is left alone.

    Args:
        model: a model with `NeuronMask` layers in it, as `add_masks` makes them or put there by
            hand.
        allow_layer_removal: let a mask remove a whole group. A residual branch that reads nothing
            any more goes as a whole; the constant that it added (biases, shifts of normalization)
            is added to the shortcut, if it isn't zero.

    Returns:
        A model without masks. Its outputs equal the masked model's to float32 rounding, in
        inference mode. It is not compiled.

    Raises:
        TypeError, ValueError: as `find_groups`; `ValueError` if a mask holds anything but 0.0 and
            1.0, empties a group (without `allow_layer_removal`, or where the branch can't be
            removed exactly), or zeroes a neuron that can't be removed.
    """
    check_model(model)
    groups = ChannelGroups(_trace_masked(model))
    plan = plan_rebuild(groups, _masked_survivors(groups, allow_layer_removal))
    return smaller_copy(plan)


def _trace_masked(model: keras.Model) -> Trace:
    """Input features are followed only where a mask removes some.

    Following them ties them to neurons that could otherwise go, so that masks which were made
    without could not be obeyed.
    """
    trace = trace_model(model)
    raw = list(trace.raw)
    if any(np.isin(zeros, raw).any() for _, _, zeros in trace.masks):
        trace = trace_model(model, prune_inputs=True)
    return trace


def smaller_copy(plan: RebuildPlan) -> keras.Model:
    """A new model with what the plan keeps; the old one is left alone."""
    trace = plan.groups.trace
    clone = clone_model(trace, plan.survivors, removals=plan.removals)
    for move in transfers(trace, clone, plan.keep):
        move.new.assign(move.take(np.asarray(move.old)))
    settle(trace, clone)
    return clone.model


def _masked_survivors(groups: ChannelGroups, allow_empty: bool) -> Survivors:
    trace = groups.trace
    for layer, path, _ in trace.masks:
        if layer is None:  # a masked read inside a layer, whose masks are listed by themselves
            continue
        values = np.unique(np.asarray(layer.mask))
        if not np.isin(values, [0.0, 1.0]).all():
            raise ValueError(
                f"The mask of {path!r} must hold 0.0 and 1.0 only. Received: "
                f"{values[~np.isin(values, [0.0, 1.0])][:5].tolist()}"
            )
        if not values.any() and not allow_empty:
            raise ValueError(
                f"The mask of {path!r} removes all of its {layer.neurons} neurons; at least one "
                "must stay."
            )
    masked = np.zeros(trace.units.count, bool)
    for _, _, zeros in trace.masks:
        masked[zeros[zeros >= 0]] = True
    roots = groups._roots
    live = np.zeros(trace.units.count, bool)
    for vector in trace.live:
        live[roots[vector[vector >= 0]]] = True
    gone = np.zeros(trace.units.count, bool)
    gone[roots[masked]] = True
    gone &= ~live
    alive = ~gone[roots]
    prunable = groups._group_of >= 0
    stuck = masked & (alive | ~prunable)
    names = {
        path
        for _, path, zeros in trace.masks
        if (zeros < 0).any() or stuck[zeros[zeros >= 0]].any()
    }
    if names:
        names = sorted(names)
        raise ValueError(
            f"{', '.join(names)}: zeroes neurons that can't be removed, because they are also read "
            "without a mask or must stay (print keras_dynhp.find_groups(model) for the reasons). "
            "Make the masks with add_masks(), which puts them wherever a group is read."
        )
    return Survivors(alive)
