"""Depth: a residual branch whose inner group has lost every neuron becomes what it adds: nothing.

Where every neuron that a place reads is gone, what the place computes no longer depends on the
data: it is a constant (its bias, and what the layers behind it make of that). If the constant is
added to a tensor that does depend on the data, the branch can go as a whole, the constant stays.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import keras
import numpy as np
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer

from keras_dynhp.graph import labels as lb
from keras_dynhp.graph.survivors import Survivors
from keras_dynhp.graph.trace import Trace
from keras_dynhp.keras_state import graph as ks
from keras_dynhp.layers.neuron_mask import NeuronMask

LIVE, EMPTY = "live", "empty"  # ... or an array: the constant value of a tensor


@dataclass(frozen=True)
class Fold:
    """What becomes of a sum: which inputs are left, and the constant that is added (or None)."""

    live: tuple[int, ...]
    constant: np.ndarray | None


@dataclass
class Removals:
    """What goes as a whole: calls of operations, and what the sums behind them become."""

    nodes: set[int] = field(default_factory=set)  # id(node)
    folds: dict[int, Fold] = field(default_factory=dict)  # id(node) -> what it becomes
    layers: list[str] = field(default_factory=list)  # names, for people
    variables: set[int] = field(default_factory=set)  # id(variable)


def find_removals(trace: Trace, survivors: Survivors) -> Removals:
    """What must go as a whole because some group has lost every neuron.

    Raises:
        ValueError: where what is left can't be written exactly as a constant added to something.
    """
    removals = Removals()
    emptied = [v for v in _vectors(trace) if len(v) and not survivors.mask(v).any()]
    if emptied:
        _Walk(trace, survivors, removals).functional(ks.functional_of(trace.model))
        _collect_variables(trace, removals)
    return removals


def _vectors(trace):
    for entry in trace.variables.values():
        yield from (vector for vector in entry.vectors if vector is not None)


class _Walk:
    def __init__(self, trace, survivors, removals):
        self.trace = trace
        self.survivors = survivors
        self.removals = removals
        self.state: dict[int, object] = {}  # tensor -> LIVE, EMPTY or its value

    def functional(self, functional) -> None:
        """Classify every tensor, then drop every call that nothing live depends on."""
        for tensor in functional.inputs:
            self.state[id(tensor)] = LIVE
        nodes = [n for n in ks.nodes_in_order(functional) if not ks.is_input(n)]
        for node in nodes:
            states = self._call(node)
            for tensor, state in zip(ks.output_tensors(node), states):
                self.state[id(tensor)] = state
        for tensor in functional.outputs:
            if self.state[id(tensor)] is not LIVE:
                raise ValueError(
                    f"Nothing of the data would reach the output {ks.maker_of(tensor).name!r} any "
                    "more; at least one neuron on the way to it must stay."
                )
        needed = {id(tensor) for tensor in functional.outputs}
        for node in reversed(nodes):
            if any(id(tensor) in needed for tensor in ks.output_tensors(node)):
                inputs = ks.input_tensors(node)
                fold = self.removals.folds.get(id(node))
                kept = range(len(inputs)) if fold is None else fold.live
                needed |= {id(inputs[i]) for i in kept}
            else:
                self.removals.nodes.add(id(node))

    def _call(self, node) -> list:
        inputs, outputs = ks.input_tensors(node), ks.output_tensors(node)
        states = [self.state[id(tensor)] for tensor in inputs]
        if all(state is LIVE for state in states):
            if isinstance(node.operation, keras.Model):
                self.functional(ks.functional_of(node.operation))
            after = [self._empty_or(LIVE, tensor) for tensor in outputs]
            silent = self._reads_nothing_inside(node)
            if not silent or all(state is EMPTY for state in after):
                return after
            return self._constants_without(node, silent)
        if isinstance(node.operation, NeuronMask):
            return states
        reads = self.trace.reads.get(id(node), {})
        passed = [i for i, state in enumerate(states) if state is EMPTY and i not in reads]
        if passed:
            after = [self._empty_or(LIVE, tensor) for tensor in outputs]
            if all(state is EMPTY for state in after):
                return after
            raise self._refusal(node, "it passes on channels of which none is left")
        if any(state is LIVE for state in states):
            self.removals.folds[id(node)] = self._fold(node, states)
            return [LIVE]
        return self._evaluate(node, states)

    def _empty_or(self, state, tensor):
        labels = self.trace.tensors[id(tensor)]
        return EMPTY if not self.survivors.mask(labels).any() else state

    def _refusal(self, node, why: str) -> ValueError:
        name = self.trace.paths.get(id(node.operation), node.operation.name)
        return ValueError(
            f"A group in front of {name!r} lost every neuron, and the branch can't be removed "
            f"exactly: {why}. Let at least one neuron of the group stay."
        )

    def _reads_nothing_inside(self, node) -> list[keras.Variable]:
        """Variables by which a layer read units inside itself, of which none is left (heads)."""
        reads = self.trace.inside_reads.get(id(node.operation), {}).values()
        return [r.variable for r in reads if not self.survivors.mask(r.vector).any()]

    def _constants_without(self, node, silent) -> list:
        """What a layer returns whatever it is given, once these variables read nothing."""
        zeros = [(variable, keras.ops.zeros_like(variable)) for variable in silent]
        random = np.random.default_rng(0)
        results = []
        with keras.StatelessScope(zeros):
            for scale in (0.0, 1.0):
                given = []
                for tensor in ks.input_tensors(node):
                    shape = self._static_shape(node, tensor)
                    given.append(np.asarray(scale * random.normal(size=shape), tensor.dtype))
                results.append(self._evaluate(node, given))
        for one, other in zip(*results):
            if not np.array_equal(one, other):
                raise self._refusal(node, "the data still reach what it returns")
        return results[0]

    def _static_shape(self, node, tensor) -> tuple[int, ...]:
        shape = (1, *tensor.shape[1:])
        if None in shape:
            raise self._refusal(node, f"its input has unknown dimensions {tensor.shape}")
        return shape

    def _evaluate(self, node, states) -> list:
        """The constant that a call returns when everything it reads is zero or constant."""
        if isinstance(node.operation, keras.Model):
            raise self._refusal(node, "it reaches into a model inside the model")
        given = {}
        for tensor, state in zip(ks.input_tensors(node), states):
            if state is EMPTY:
                state = np.zeros(self._static_shape(node, tensor), tensor.dtype)
            given[id(tensor)] = keras.ops.convert_to_tensor(state)
        args, kwargs = ks.fill_in(node, given)
        results = keras.tree.flatten(node.operation(*args, **kwargs))
        return [keras.ops.convert_to_numpy(result) for result in results]

    def _fold(self, node, states) -> Fold:
        operation, inputs = node.operation, ks.input_tensors(node)
        live = tuple(i for i, state in enumerate(states) if state is LIVE)
        scale = [1.0] * len(inputs)
        if isinstance(operation, CustomScaleLayer):
            scale = [1.0, operation.scale]
        elif not isinstance(operation, keras.layers.Add) and (
            ks.bare_operation_name(operation) != "Add"
        ):
            raise self._refusal(node, f"a {type(operation).__name__} is no sum")
        if scale[live[0]] != 1.0:
            raise self._refusal(node, "what is left is scaled")
        output = ks.output_tensors(node)[0]
        if len(live) == 1 and inputs[live[0]].shape != output.shape:
            raise self._refusal(node, "what is left is broadcast over it")
        total = sum(scale[i] * np.asarray(s) for i, s in enumerate(states) if s is not LIVE)
        return Fold(live, self._per_channel(node, output, np.asarray(total, "float32")))

    def _per_channel(self, node, output, total):
        """The constant for the surviving channels, or None if it is nothing."""
        labels = self.trace.tensors[id(output)]
        total = total.reshape((1,) * (len(output.shape) - total.ndim) + total.shape)
        for axis in lb.varying(labels):
            if total.shape[axis] > 1:
                vector = lb.axis_vector(labels, axis, total.shape[axis])
                total = total.take(self.survivors.keep(vector), axis=axis)
        if not total.any():
            return None
        for axis in range(total.ndim - 1):
            first = total.take([0], axis=axis)
            if not np.allclose(first, total, rtol=1e-6, atol=0):
                raise self._refusal(node, "what it adds is not the same at every position")
            total = first
        return total.reshape(-1)


def _collect_variables(trace, removals: Removals) -> None:
    kept, gone = {}, {}
    for node in _every_node(ks.functional_of(trace.model)):
        layer = node.operation
        if isinstance(layer, keras.layers.Layer) and not isinstance(layer, keras.Model):
            (gone if id(node) in removals.nodes else kept)[id(layer)] = layer
    for key, layer in gone.items():
        if key not in kept and not isinstance(layer, NeuronMask):
            removals.layers.append(trace.paths.get(key, layer.name))
            removals.variables |= {id(variable) for variable in layer.variables}


def _every_node(functional):
    for node in ks.nodes_in_order(functional):
        yield node
        inner = node.operation
        if isinstance(inner, keras.Model) and ks.functional_of(inner) is not None:
            yield from _every_node(ks.functional_of(inner))
