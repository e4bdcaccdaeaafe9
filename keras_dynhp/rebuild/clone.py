"""Making a model anew from its graph, smaller or with masks in it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Protocol

import keras
import numpy as np

from keras_dynhp.graph import labels as lb
from keras_dynhp.graph.survivors import Survivors
from keras_dynhp.graph.trace import Trace
from keras_dynhp.keras_state import graph as ks
from keras_dynhp.keras_state.strided import sidestep_strided_kernels
from keras_dynhp.keras_state.variables import initialized_by
from keras_dynhp.layers.masked_reads import MaskedReads
from keras_dynhp.layers.neuron_mask import NeuronMask
from keras_dynhp.rebuild.anew import config_of, layer_from_config
from keras_dynhp.rebuild.removal import Removals


class Masks(Protocol):
    """How `add_masks` puts masks into a clone."""

    def in_front(self, labels: np.ndarray, axis: int, tensor):
        """A tensor with masks on it, for a place that mixes its channels along `axis`."""

    def behind(self, labels: np.ndarray, tensor):
        """A tensor that was just made, with masks on what nothing will read."""

    def inside(self, model: keras.Model):
        """A context in which this model is made anew."""

    def around(self, layer: keras.layers.Layer, reads: list, old: keras.layers.Layer):
        """A layer with masks on what it reads inside itself, or the layer as it is."""


@dataclass
class Clone:
    """A model made anew: the new model and which new operation stands for which old one."""

    model: keras.Model
    operations: dict[int, object] = field(default_factory=dict)  # id(old operation) -> new

    def pairs(self, trace: Trace) -> list[tuple[object, object]]:
        """(old layer, new layer) for every layer of the graph, models inside models followed."""
        return self._pairs(leaves(ks.functional_of(trace.model)))

    def pairs_and_models(self, trace: Trace) -> list[tuple[object, object]]:
        """As `pairs`, and the models inside the model, inner ones first; in wrappers, too."""
        inside = ks.models_inside(trace.model)
        pairs = {id(old): (old, new) for old, new in self.pairs(trace)}
        for model in inside:
            pairs.update((id(one[0]), one) for one in self._pairs(leaves(ks.functional_of(model))))
        return [*pairs.values(), *((old, self.operations[id(old)]) for old in inside)]

    def _pairs(self, nodes) -> list[tuple[object, object]]:
        operations = (node.operation for node in nodes)
        return [(old, self.operations[id(old)]) for old in operations if id(old) in self.operations]


def leaves(functional):
    """The first call of every layer of a graph, models inside it followed."""
    seen = set()
    for node in ks.nodes_in_order(functional):
        operation = node.operation
        if id(operation) in seen or not isinstance(operation, keras.layers.Layer):
            continue
        seen.add(id(operation))
        inner = ks.functional_of(operation) if isinstance(operation, keras.Model) else None
        if inner is not None:
            yield from leaves(inner)
        else:
            yield node


def clone_model(
    trace: Trace,
    survivors: Survivors,
    masks: Masks | None = None,
    removals: Removals | None = None,
) -> Clone:
    """Make a traced model anew with only the surviving neurons.

    Args:
        trace: what following the model's channels found.
        survivors: which units stay.
        masks: puts masks wherever channels are mixed; None for a plain model.
        removals: what goes as a whole (`RebuildPlan.removals`).

    Returns:
        The clone. Its vectors hold their initial values (masks keep them), all else zeros.
    """
    clone = Clone(model=None)
    cloner = Cloner(trace, survivors, masks, removals or Removals(), clone.operations)
    with initialized_by(kernels_as_zeros):
        clone.model = cloner.model(trace.model)
    sidestep_strided_kernels(clone.model)
    return clone


def kernels_as_zeros(variable, initializer, initialize) -> None:
    """Random values for a kernel take time, and are overwritten with what the old one keeps."""
    initialize(keras.initializers.Zeros() if len(variable.shape) > 1 else initializer)


class Cloner:
    """Makes a traced model anew, piece by piece; see `clone_model`."""

    def __init__(self, trace, survivors, masks, removals, operations):
        self.trace = trace
        self.survivors = survivors
        self.masks = masks
        self.removals = removals
        self.operations = operations

    def model(self, old: keras.Model) -> keras.Model:
        """Any model, its own class kept where it is Sequential and can stay so."""
        with contextlib.nullcontext() if self.masks is None else self.masks.inside(old):
            return self._model(old)

    def _model(self, old: keras.Model) -> keras.Model:
        functional = ks.functional_of(old)
        plain_chain = isinstance(old, keras.Sequential) and self.masks is None
        inputs = [self._input(tensor) for tensor in functional.inputs]
        tensors = {id(t): new for t, new in zip(functional.inputs, inputs)}
        chain = [ks.maker_of(inputs[0])] if plain_chain else None
        for node in ks.nodes_in_order(functional):
            if not ks.is_input(node) and id(node) not in self.removals.nodes:
                self._call(node, tensors, chain)
        if chain is not None:
            new = keras.Sequential(chain, name=old.name)
        else:
            inputs_like, outputs_like = ks.structure(functional)
            new = keras.Model(
                keras.tree.map_structure(lambda t: tensors[id(t)], inputs_like),
                keras.tree.map_structure(lambda t: tensors[id(t)], outputs_like),
                name=old.name,
            )
        if new.dtype_policy != old.dtype_policy:
            new.dtype_policy = old.dtype_policy  # which says whether `compile` scales the loss
        if not old.trainable:
            new.trainable = False
            self._restore_trainable(functional)
        self.operations[id(old)] = new
        return new

    def _restore_trainable(self, functional) -> None:
        """Freezing a model froze its layers; put each layer's own setting back."""
        for node in leaves(functional):
            new = self.operations.get(id(node.operation))
            if new is not None:
                train_alike(node.operation, new)

    def _input(self, tensor):
        layer = ks.maker_of(tensor)
        config = layer.get_config()
        labels = self.trace.tensors[id(tensor)]
        shape = list(config["batch_shape"])
        for axis in lb.varying(labels):  # the input of a model inside the model
            shape[axis] = self.survivors.count(lb.axis_vector(labels, axis, shape[axis]))
        new = type(layer).from_config({**config, "batch_shape": tuple(shape)})
        self.operations[id(layer)] = new
        return new.output

    def operation(self, old):
        """The new operation for an old one: made once, from its changed configuration."""
        if id(old) in self.operations:
            return self.operations[id(old)]
        if isinstance(old, MaskedReads) and self.masks is None:
            new = self.operation(old.layer)
        elif isinstance(old, keras.Model) and ks.functional_of(old) is not None:
            new = self.model(old)
        else:
            new = self._made_anew(old)
        self.operations[id(old)] = new
        return new

    def _made_anew(self, old):
        resizes = self.trace.resizes.get(id(old), {})
        if not resizes and not isinstance(old, keras.layers.Layer):
            return ks.copied(old)  # its arguments may be arrays, which no configuration holds
        try:
            config = config_of(old)
            for write, vector in resizes.values():
                write(config, self.survivors, vector)
            return self._from_config(old, config)
        except Exception as error:
            path = self.trace.paths.get(id(old), old.name)
            raise ValueError(
                f"Layer {path!r} ({type(old).__name__}) can't be made anew from its "
                f"configuration: {error}\nRegister the functions and classes that it holds with "
                "keras.saving.register_keras_serializable, or give it a get_config() and a "
                "from_config() that make the same layer."
            ) from error

    def _from_config(self, old, config: dict):
        parts = self.trace.parts.get(id(old))
        if not parts:
            return layer_from_config(old, config)
        # A layer around other layers: those are made anew first, then it is made around them.
        for key, inner in parts.items():
            made = [self.operation(layer) for layer in inner]
            config[key] = made if isinstance(config[key], (list, tuple)) else made[0]
        return type(old)(**config)

    def _to_call(self, old):
        """What is called in the place of an old operation; masks may be put around it."""
        new = self.operation(old)
        reads = self.trace.inside_reads.get(id(old))
        if self.masks is None or not reads:
            return new
        key = ("around", id(old))
        if key not in self.operations:
            self.operations[key] = self.masks.around(new, list(reads.values()), old)
        return self.operations[key]

    def _call(self, node, tensors, chain) -> None:
        old = node.operation
        if id(node) in self.removals.folds:
            tensors[id(ks.output_tensors(node)[0])] = self._folded(node, tensors)
            return
        given = {id(t): tensors[id(t)] for t in ks.input_tensors(node)}
        outputs = ks.output_tensors(node)
        reads = self.trace.reads.get(id(node), {})
        # A tensor that is given twice (query and value of self-attention) is read once.
        for tensor, axis in {(ks.input_tensors(node)[i], axis) for i, axis in reads.items()}:
            given[id(tensor)] = self._read(tensor, given[id(tensor)], axis, chain)
        if isinstance(old, NeuronMask) and self.masks is None:
            tensors[id(outputs[0])] = given[id(ks.input_tensors(node)[0])]
            return
        new = self._to_call(old)
        results = self.result(node, new, given)
        # The only operations in a Sequential are those that make masks, which its layers do anew.
        if chain is not None and isinstance(new, keras.layers.Layer):
            chain.append(new)
        for tensor, result in zip(outputs, keras.tree.flatten(results)):
            if self.masks is not None:
                result = self.masks.behind(self.trace.tensors[id(tensor)], result)
            tensors[id(tensor)] = result

    def result(self, node, new, given: dict[int, object]):
        """What a new operation returns when called as in a node, on other tensors."""
        args, kwargs = ks.fill_in(node, given)
        change = self.trace.rewrites.get(id(node))
        if change is not None:
            args, kwargs = change(args, kwargs, self.survivors)
        try:
            results = new(*args, **kwargs)
            _adapt(node.operation, new)
        except Exception as error:
            old = node.operation
            raise ValueError(
                f"Layer {self.trace.paths.get(id(old), old.name)!r} ({type(old).__name__}), made "
                f"anew from its configuration, can't be called on what it would get: {error}"
            ) from error
        return results

    def _folded(self, node, tensors):
        """A sum some terms of which went: those that are left, and the constant they left."""
        fold = self.removals.folds[id(node)]
        terms = [tensors[id(ks.input_tensors(node)[i])] for i in fold.live]
        if len(terms) > 1:
            total = self.operation(node.operation)(terms)
        else:
            total = terms[0]
        return total if fold.constant is None else keras.ops.add(total, fold.constant)

    def _read(self, tensor, new, axis, chain):
        gather = self.trace.gathers.get((id(tensor), axis))
        if gather is None:
            if self.masks is None:
                return new
            return self.masks.in_front(self.trace.tensors[id(tensor)], axis, new)
        if self.masks is not None:
            labels = np.asarray(gather.vector).reshape(
                [-1 if a == gather.axis else 1 for a in range(len(tensor.shape))]
            )
            return self.masks.in_front(labels, axis, new)
        kept = self.survivors.keep(gather.vector)
        if len(kept) == len(gather.vector):
            return new
        key = ("gather", id(tensor), axis)
        if key not in self.operations:
            self.operations[key] = _select(new, kept, gather.axis, as_layer=chain is not None)
            if chain is not None:
                chain.append(self.operations[key])
        select = self.operations[key]
        return select(new)


def _select(tensor, kept, axis, as_layer):
    """A gather along one axis: inside a Sequential, which holds only layers, a tiny model."""
    along = "" if axis == len(tensor.shape) - 1 else f"_along_{axis}"
    name = f"{ks.maker_of(tensor).name}_selected{along}"
    kept = [int(i) for i in kept]
    if not as_layer:
        result = keras.ops.take(tensor, kept, axis=axis)
        ks.maker_of(result).name = name
        return lambda _: result
    inside = keras.Input(tensor.shape[1:], dtype=tensor.dtype)
    return keras.Model(inside, keras.ops.take(inside, kept, axis=axis), name=name)


def _adapt(old, new) -> None:
    """Quantize what is quantized in an operation, and give adapters to what has them."""
    if ks.is_adapted(old):
        for one, other in zip(with_inner(old), with_inner(new)):
            ks.adapt_alike(one, other)


def with_inner(layer):
    """A layer and the layers inside it, outermost first, without masks."""
    return [
        inner for inner in ks.with_inner(layer) if not isinstance(inner, (NeuronMask, MaskedReads))
    ]


def train_alike(old, new) -> None:
    """Freeze in a new layer what is frozen in an old one, and nothing else."""
    for layer, other in zip(with_inner(old), with_inner(new)):
        if other.trainable != layer.trainable:
            other.trainable = layer.trainable
