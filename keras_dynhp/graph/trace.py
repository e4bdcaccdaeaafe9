"""Tracing: follow every channel of a Keras graph from its maker to all its readers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import keras
import numpy as np

from keras_dynhp.graph import labels as lb
from keras_dynhp.graph.call import Call
from keras_dynhp.graph.records import Barrier, Gather, InsideRead, Producer, VariableLabels
from keras_dynhp.graph.registry import keeps_zero
from keras_dynhp.keras_state import graph as ks


@dataclass
class Trace:
    """Everything that following a model's channels found out. Made by `trace_model`."""

    model: keras.Model
    prune_inputs: bool = False
    units: lb.Units = field(default_factory=lb.Units)
    producers: list[Producer] = field(default_factory=list)
    variables: dict[int, VariableLabels] = field(default_factory=dict)
    tensors: dict[int, np.ndarray] = field(default_factory=dict)
    reads: dict[int, dict[int, int]] = field(default_factory=dict)  # node -> {input: axis}
    weightless_reads: list[np.ndarray] = field(default_factory=list)
    resizes: dict[int, dict[object, tuple[Callable, np.ndarray]]] = field(default_factory=dict)
    calls: dict[int, int] = field(default_factory=dict)  # layer -> how often it is called
    resized: dict[int, dict[object, int]] = field(default_factory=dict)  # ... and says so
    rewrites: dict[int, Callable] = field(default_factory=dict)
    gathers: dict[tuple[int, int], Gather] = field(default_factory=dict)
    sections: list[np.ndarray] = field(default_factory=list)
    live: list[np.ndarray] = field(default_factory=list)  # units read without a mask on them
    zeroed: dict[int, np.ndarray] = field(default_factory=dict)  # tensor -> units that are zero
    masks: list[tuple[object, str, np.ndarray]] = field(default_factory=list)  # what each zeroes
    barriers: dict[str, list[Barrier]] = field(default_factory=dict)  # path -> its calls
    # layer -> (variable, axis) -> how it reads units inside itself
    inside_reads: dict[int, dict[tuple, InsideRead]] = field(default_factory=dict)
    parts: dict[int, dict[str, list]] = field(default_factory=dict)  # layer -> layers inside it
    paths: dict[int, str] = field(default_factory=dict)  # operation -> its name inside the model
    raw: set[int] = field(default_factory=set)  # codes of the model's own input features
    _inner: dict[int, tuple[list, list]] = field(default_factory=dict)

    def run(self) -> Trace:
        """Trace the whole model."""
        functional = ks.functional_of(self.model)
        inputs = []
        for tensor in functional.inputs:
            code = self.units.fixed(f"input {tensor.name!r} of the model")
            self.raw.add(code)
            inputs.append(lb.blank(len(tensor.shape), code))
        outputs = self._trace_functional(functional, inputs, prefix="")
        for labels, tensor in zip(outputs, functional.outputs):
            self._keep_output(labels, ks.maker_of(tensor).name)
        self._keep_where_calls_differ()
        return self

    def _keep_where_calls_differ(self) -> None:
        """A configuration holds for all calls of a layer, also for those that can't shrink."""
        for layer, entries in self.resizes.items():
            for key, (_, vector) in entries.items():
                if self.resized[layer][key] < self.calls.get(layer, 0):
                    self.units.pin(vector, f"{self.paths[layer]}: its other calls can't follow")

    def _keep_output(self, labels: np.ndarray, name: str) -> None:
        """An output's units stay, and so do those in front of a softmax or the like at the end.

        Such a layer stops nothing that could have gone, so it is no barrier worth telling.
        """
        self.units.pin(labels, f"an output of the model ({name})", foremost=True)
        for path, calls in list(self.barriers.items()):
            for call in calls:
                if call.keeps_shape and call.outputs[0] is labels:
                    self.barriers.pop(path, None)
                    self._keep_output(call.inputs[0], name)

    def producers_of_units(self) -> list[int]:
        """For every unit, the index of its producer."""
        return self.units.producers

    def _trace_functional(self, functional, inputs: list[np.ndarray], prefix: str):
        for tensor, labels in zip(functional.inputs, inputs):
            self.tensors[id(tensor)] = labels
        for node in ks.nodes_in_order(functional):
            if ks.is_input(node):
                continue
            operation = node.operation
            path = prefix + operation.name
            self.paths[id(operation)] = path
            given = [self.tensors[id(t)] for t in ks.input_tensors(node)]
            inner = ks.functional_of(operation) if isinstance(operation, keras.Model) else None
            if inner is not None:
                outputs = self.trace_inner(inner, given, path + "/")
            else:
                outputs = Call(self, node, path, given).run()
                self._carry_zeros(node, outputs)
            for tensor, labels in zip(ks.output_tensors(node), outputs):
                self.tensors[id(tensor)] = labels
        return [self.tensors[id(t)] for t in functional.outputs]

    def _carry_zeros(self, node, outputs: list[np.ndarray]) -> None:
        """Units that a NeuronMask set to zero stay zero behind operations that keep zeros."""
        tensors = ks.input_tensors(node)
        known = [self.zeroed.get(id(tensor)) for tensor in tensors]
        if not keeps_zero(node.operation) or all(zeros is None for zeros in known):
            return
        zeros = np.unique(np.concatenate([z for z in known if z is not None]))
        for tensor, zero in zip(tensors, known):
            # A unit that comes in unmasked by another way is not zero in what comes out.
            present = np.unique(self.tensors[id(tensor)])
            awake = np.setdiff1d(present, zero) if zero is not None else present
            zeros = np.setdiff1d(zeros, awake)
        for tensor in ks.output_tensors(node):
            before = self.zeroed.get(id(tensor), zeros[:0])
            self.zeroed[id(tensor)] = np.union1d(before, zeros)

    def trace_inner(self, inner, given: list[np.ndarray], prefix: str):
        """A model inside a model; called again, it must be given the same channels again."""
        if id(inner) in self._inner:
            first_given, outputs = self._inner[id(inner)]
            for first, again in zip(first_given, given):
                self.units.couple(first, again)
            return outputs
        outputs = self._trace_functional(inner, given, prefix)
        self._inner[id(inner)] = (given, outputs)
        return outputs


def trace_model(model: keras.Model, prune_inputs: bool = False) -> Trace:
    """Follow every channel of a built Sequential or Functional model."""
    return Trace(model, prune_inputs).run()
