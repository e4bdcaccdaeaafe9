"""Making a model anew from its graph, smaller or with masks in it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import keras
import numpy as np

from keras_dynhp.graph.survivors import Survivors
from keras_dynhp.graph.trace import Trace
from keras_dynhp.keras_state import graph as ks
from keras_dynhp.layers.neuron_mask import NeuronMask
from keras_dynhp.rebuild.transfer import Transfer


@dataclass
class Clone:
    """A model made anew: the new model and which new operation stands for which old one."""

    model: keras.Model
    operations: dict[int, object] = field(default_factory=dict)  # id(old operation) -> new

    def pairs(self, trace: Trace) -> list[tuple[object, object]]:
        """(old layer, new layer) for every layer of the graph, models inside models followed."""
        return [
            (node.operation, self.operations[id(node.operation)])
            for node in _leaves(ks.functional_of(trace.model))
            if id(node.operation) in self.operations
        ]


def _leaves(functional):
    seen = set()
    for node in ks.nodes_in_order(functional):
        operation = node.operation
        if id(operation) in seen or not isinstance(operation, keras.layers.Layer):
            continue
        seen.add(id(operation))
        inner = ks.functional_of(operation) if isinstance(operation, keras.Model) else None
        if inner is not None:
            yield from _leaves(inner)
        else:
            yield node


def clone_model(trace: Trace, survivors: Survivors, masks: Callable | None = None) -> Clone:
    """Make a traced model anew with only the surviving neurons.

    Args:
        trace: what following the model's channels found.
        survivors: which units stay.
        masks: a function of (labels, axis, tensor) that puts masks on a tensor in front of a
            place that mixes its channels; None for a plain model.

    Returns:
        The clone. Its variables hold their initial values.
    """
    clone = Clone(model=None)
    clone.model = _Cloner(trace, survivors, masks, clone.operations).model(trace.model)
    return clone


class _Cloner:
    def __init__(self, trace, survivors, masks, operations):
        self.trace = trace
        self.survivors = survivors
        self.masks = masks
        self.operations = operations

    def model(self, old: keras.Model) -> keras.Model:
        """Any model, its own class kept where it is Sequential and can stay so."""
        functional = ks.functional_of(old)
        plain_chain = isinstance(old, keras.Sequential) and self.masks is None
        inputs = [self._input(tensor) for tensor in functional.inputs]
        tensors = {id(t): new for t, new in zip(functional.inputs, inputs)}
        chain = [inputs[0]._keras_history.operation] if plain_chain else None
        for node in ks.nodes_in_order(functional):
            if not ks.is_input(node):
                self._call(node, tensors, chain)
        if chain is not None:
            new = keras.Sequential(chain, name=old.name, trainable=old.trainable)
        else:
            inputs_like, outputs_like = ks.structure(functional)
            new = keras.Model(
                keras.tree.map_structure(lambda t: tensors[id(t)], inputs_like),
                keras.tree.map_structure(lambda t: tensors[id(t)], outputs_like),
                name=old.name,
            )
            new.trainable = old.trainable
            self._restore_frozen(functional)
        self.operations[id(old)] = new
        return new

    def _restore_frozen(self, functional) -> None:
        """Setting `trainable` on a model sets it on its layers; put each layer's own back."""
        for node in ks.nodes_in_order(functional):
            old = node.operation
            new = self.operations.get(id(old))
            if isinstance(old, keras.layers.Layer) and not isinstance(old, keras.Model) and new:
                if new.trainable != old.trainable:
                    new.trainable = old.trainable

    def _input(self, tensor):
        layer = tensor._keras_history.operation
        new = type(layer).from_config(layer.get_config())
        self.operations[id(layer)] = new
        return new.output

    def _operation(self, old, chain):
        """The new operation for an old one: made once, from its changed configuration."""
        if id(old) in self.operations:
            return self.operations[id(old)]
        if isinstance(old, keras.Model) and ks.functional_of(old) is not None:
            new = self.model(old)
        else:
            config = copy.deepcopy(old.get_config())
            for write, vector in self.trace.resizes.get(id(old), {}).values():
                write(config, self.survivors, vector)
            with keras.src.saving.serialization_lib.SafeModeScope(False):
                # The configuration was made a moment ago from the user's own object, so a Lambda
                # in it is the user's own code.
                new = type(old).from_config(config)
        self.operations[id(old)] = new
        return new

    def _call(self, node, tensors, chain) -> None:
        old = node.operation
        given = {id(t): tensors[id(t)] for t in ks.input_tensors(node)}
        outputs = ks.output_tensors(node)
        for index, axis in self.trace.reads.get(id(node), {}).items():
            tensor = ks.input_tensors(node)[index]
            given[id(tensor)] = self._read(tensor, given[id(tensor)], axis, chain)
        if isinstance(old, NeuronMask) and self.masks is None:
            tensors[id(outputs[0])] = given[id(ks.input_tensors(node)[0])]
            return
        new = self._operation(old, chain)
        args, kwargs = ks.fill_in(node, given)
        change = self.trace.rewrites.get(id(node))
        if change is not None:
            args, kwargs = change(args, kwargs, self.survivors)
        try:
            results = new(*args, **kwargs)
        except Exception as error:
            raise ValueError(
                f"Layer {self.trace.paths.get(id(old), old.name)!r} ({type(old).__name__}) can't "
                f"be called on the smaller tensors it would get: {error}"
            ) from error
        if chain is not None:
            chain.append(new)
        for tensor, result in zip(outputs, keras.tree.flatten(results)):
            tensors[id(tensor)] = result

    def _read(self, tensor, new, axis, chain):
        gather = self.trace.gathers.get(id(tensor))
        if gather is None:
            if self.masks is None:
                return new
            return self.masks(self.trace.tensors[id(tensor)], axis, new)
        if self.masks is not None:
            labels = np.asarray(gather.vector).reshape(
                [-1 if a == gather.axis else 1 for a in range(len(tensor.shape))]
            )
            return self.masks(labels, axis, new)
        kept = self.survivors.keep(gather.vector)
        if len(kept) == len(gather.vector):
            return new
        key = ("gather", id(tensor))
        if key not in self.operations:
            self.operations[key] = _select(new, kept, gather.axis, as_layer=chain is not None)
            if chain is not None:
                chain.append(self.operations[key])
        select = self.operations[key]
        return select(new)


def _select(tensor, kept, axis, as_layer):
    """A gather along one axis: inside a Sequential, which holds only layers, a tiny model."""
    name = f"{tensor._keras_history.operation.name}_selected"
    kept = [int(i) for i in kept]
    if not as_layer:
        result = keras.ops.take(tensor, kept, axis=axis)
        result._keras_history.operation.name = name
        return lambda _: result
    inside = keras.Input(tensor.shape[1:], dtype=tensor.dtype)
    return keras.Model(inside, keras.ops.take(inside, kept, axis=axis), name=name)


def transfers(trace: Trace, clone: Clone, keep: dict[int, dict[int, np.ndarray]]) -> list[Transfer]:
    """Which old variable becomes which new one, and what is kept of it.

    Raises:
        ValueError: with the layer's name, if the rebuilt layer's variables don't have the shapes
            that the plan gives them (its rule says something else than its code does).
    """
    moves: dict[int, Transfer] = {}
    for old_layer, new_layer in clone.pairs(trace):
        if isinstance(old_layer, NeuronMask):
            continue
        path = trace.paths.get(id(old_layer), old_layer.name)
        old_vars, new_vars = old_layer.variables, new_layer.variables
        if len(old_vars) != len(new_vars):
            raise ValueError(
                f"Layer {path!r} ({type(old_layer).__name__}) has {len(old_vars)} variables, and "
                f"{len(new_vars)} when made anew from its get_config(). Its configuration must "
                "say everything that its build() needs."
            )
        for old, new in zip(old_vars, new_vars):
            kept = keep.get(id(old), {})
            want = tuple(len(kept[a]) if a in kept else d for a, d in enumerate(old.shape))
            if tuple(new.shape) != want:
                raise ValueError(
                    f"Layer {path!r} ({type(old_layer).__name__}): {old.path!r} should shrink from "
                    f"{tuple(old.shape)} to {want}, but the rebuilt layer makes it "
                    f"{tuple(new.shape)}. The layer's rule does not say what the layer does."
                )
            moves[id(old)] = Transfer(old, new, dict(kept))
    return list(moves.values())
