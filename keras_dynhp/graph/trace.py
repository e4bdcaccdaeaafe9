"""Tracing: follow every channel of a Keras graph from the layer that makes it to all its readers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import keras
import numpy as np

from keras_dynhp.graph import labels as lb
from keras_dynhp.graph.registry import find_rule, keeps_zero
from keras_dynhp.graph.survivors import Survivors
from keras_dynhp.keras_state import graph as ks

IN, OUT, ALONG = "in", "out", "along"


@dataclass
class VariableLabels:
    """Which unit each index of each axis of a variable belongs to, and what the axis does.

    `roles` per axis: "in" (reads the unit), "out" (makes it), "along" (one value per channel).
    """

    variable: keras.Variable
    layer: str
    vectors: list[np.ndarray | None]
    roles: list[str | None]


@dataclass
class Producer:
    """A call that made new units."""

    layer: str
    kind: str


@dataclass
class Gather:
    """Where input features are selected: a tensor that gets a `take` behind it on rebuild."""

    axis: int
    vector: np.ndarray


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
    rewrites: dict[int, Callable] = field(default_factory=dict)
    gathers: dict[int, Gather] = field(default_factory=dict)
    sections: list[np.ndarray] = field(default_factory=list)
    live: list[np.ndarray] = field(default_factory=list)  # units read without a mask on them
    zeroed: dict[int, np.ndarray] = field(default_factory=dict)  # tensor -> units that are zero
    masks: list[tuple[object, str, np.ndarray]] = field(default_factory=list)  # what each zeroes
    barriers: dict[str, str] = field(default_factory=dict)  # layer -> why it can't be followed
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
            name = tensor._keras_history.operation.name
            self.units.pin(labels, f"an output of the model ({name})", foremost=True)
        return self

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
                outputs = self._trace_inner(inner, given, path + "/")
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

    def _trace_inner(self, inner, given: list[np.ndarray], prefix: str):
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


class Call:
    """One call of one operation, as its rule sees it.

    A rule is a function of a `Call` that returns the labels of the output (a list of them where
    there are several). `call.layer` is the layer or operation; `call.inputs` the labels of each
    input tensor and `call.input_shapes` their shapes; `call.output_shapes` those of the outputs.
    """

    def __init__(self, trace: Trace, node, path: str, inputs: list[np.ndarray]):
        self.trace = trace
        self.node = node
        self.path = path
        self.layer = node.operation
        self.inputs = inputs
        self.input_shapes = [tuple(t.shape) for t in ks.input_tensors(node)]
        self.output_shapes = [tuple(t.shape) for t in ks.output_tensors(node)]
        self.args, self.kwargs = ks.call_arguments(node)

    # ---- running the rule -------------------------------------------------------------------

    def run(self) -> list[np.ndarray]:
        """Apply the rule and check what it says against the shapes."""
        rule, why = find_rule(self.layer)
        outputs = self.barrier(why) if rule is None else rule(self)
        if isinstance(outputs, np.ndarray):
            outputs = [outputs]
        if len(outputs) != len(self.output_shapes):
            raise ValueError(
                f"The rule for layer {self.path!r} ({type(self.layer).__name__}) returned labels "
                f"for {len(outputs)} outputs; the layer has {len(self.output_shapes)}. Return one "
                "label array per output."
            )
        for labels, shape in zip(outputs, self.output_shapes):
            fits = labels.ndim == len(shape) and all(
                have in (1, want) for have, want in zip(labels.shape, shape)
            )
            if not fits:
                raise ValueError(
                    f"The rule for layer {self.path!r} ({type(self.layer).__name__}) returned "
                    f"labels of shape {labels.shape} for an output of shape {shape}. Every "
                    "dimension must be 1 or the output's own."
                )
        return list(outputs)

    # ---- what a rule can say ----------------------------------------------------------------

    def read(self, index: int = 0, axis: int = -1, weightless: bool = False) -> np.ndarray:
        """Input `index` is mixed along `axis`; returns the labels along it.

        Reading a masked neuron must be the same as reading zero: the rule promises that a zero in
        the input has no effect. `weightless=True` where no variable holds the reading weights.
        """
        shape = self.input_shapes[index]
        axis %= len(shape)
        labels = self._raw_as_units(index, axis)
        elsewhere = [a for a in lb.varying(labels) if a != axis]
        if elsewhere:
            self.trace.units.pin(
                labels,
                f"{self.path} works on axis {axis} of a tensor whose channels lie on axis "
                f"{elsewhere[0]}",
            )
            labels = lb.blank(len(shape), self.fixed(f"read by {self.path} along another axis"))
        self.trace.reads.setdefault(id(self.node), {})[index] = axis
        vector = lb.axis_vector(labels, axis, shape[axis])
        self.trace.live.append(vector[~np.isin(vector, self._zeroed(index))])
        if weightless:
            self.trace.weightless_reads.append(vector)
        return vector

    def channels(self, index: int = 0, axis: int = -1) -> np.ndarray:
        """The labels of input `index` along `axis`, which the layer treats one by one."""
        shape = self.input_shapes[index]
        return lb.axis_vector(self.inputs[index], axis, shape[axis])

    def produce(self, count: int, what: str = "") -> np.ndarray:
        """New neurons made by this call; `what` they are, if a layer makes several kinds."""
        if count == 1:
            return np.array([self.fixed(f"{self.path} has a single neuron")])
        producer = len(self.trace.producers)
        name = f"{self.path}:{what}" if what else self.path
        self.trace.producers.append(Producer(name, type(self.layer).__name__))
        return self.trace.units.new(count, producer)

    def label(self, variable, *axes: np.ndarray | tuple | None) -> None:
        """Say what each axis of a variable holds: labels, `(labels, role)` or None.

        Axes are named from the first; `role` is "in", "out" or "along" (the default).
        """
        if variable is None:
            return
        if len(axes) != len(variable.shape):
            raise ValueError(
                f"The rule for layer {self.path!r} labelled {len(axes)} axes of variable "
                f"{variable.path!r}, whose shape is {tuple(variable.shape)}."
            )
        vectors, roles = [], []
        for axis, entry in enumerate(axes):
            vector, role = entry if isinstance(entry, tuple) else (entry, ALONG)
            if vector is not None and len(vector) != variable.shape[axis]:
                raise ValueError(
                    f"The rule for layer {self.path!r} gave {len(vector)} labels for axis {axis} "
                    f"of variable {variable.path!r}, whose shape is {tuple(variable.shape)}."
                )
            vectors.append(vector)
            roles.append(role if vector is not None else None)
        known = self.trace.variables.get(id(variable))
        if known is None:
            self.trace.variables[id(variable)] = VariableLabels(variable, self.path, vectors, roles)
            return
        for axis, (before, now) in enumerate(zip(known.vectors, vectors)):
            if before is None:
                known.vectors[axis], known.roles[axis] = now, roles[axis]
            elif now is not None:
                self.couple(before, now)

    def couple(self, a: np.ndarray, b: np.ndarray) -> None:
        """Units at the same position of `a` and `b` stay or go together."""
        self.trace.units.couple(a, b)

    def pin(self, labels: np.ndarray, why: str) -> None:
        """These units must stay."""
        self.trace.units.pin(labels, f"{self.path}: {why}")

    def fixed(self, why: str) -> int:
        """A label for positions that can't be removed."""
        return self.trace.units.fixed(why)

    def barrier(self, why: str) -> list[np.ndarray]:
        """This call can't be followed: everything it reads stays, and so does what it returns."""
        self.trace.barriers.setdefault(self.path, why)
        for labels in self.inputs:
            self.trace.units.pin(labels, f"read by {self.path}: {why}")
        code = self.fixed(f"comes out of {self.path}: {why}")
        return [lb.blank(len(shape), code) for shape in self.output_shapes]

    def resize(self, key, vector: np.ndarray, write: Callable | None = None) -> None:
        """On rebuild, `config[key]` becomes the number of surviving labels in `vector`.

        `write(config, survivors, vector)` changes the configuration in another way.
        """
        entries = self.trace.resizes.setdefault(id(self.layer), {})
        if key in entries:
            self.couple(entries[key][1], vector)
        entries[key] = (write or _write_count(key), vector)

    def rewrite(self, change: Callable[[tuple, dict, Survivors], tuple[tuple, dict]]) -> None:
        """On rebuild, this call's arguments become `change(args, kwargs, survivors)`."""
        self.trace.rewrites[id(self.node)] = change

    def section(self, labels: np.ndarray) -> None:
        """At least one of these units must survive (a slice of a tensor may not become empty)."""
        self.trace.sections.append(np.unique(labels))

    # ---- labels of outputs ------------------------------------------------------------------

    def along(self, vector: np.ndarray, axis: int = -1, output: int = 0) -> np.ndarray:
        """Output labels that vary along one axis."""
        return lb.on_axis(len(self.output_shapes[output]), axis, vector)

    def moved(self, labels: np.ndarray) -> np.ndarray:
        """Output labels after data movement: what can be removed must stay rectangular.

        Where channels came to lie on two axes (a reshape to groups), removing must take whole
        slices of one of them: the longer one, which gives the finer choice.
        """
        labels = lb.compress(np.asarray(labels))
        axes = lb.varying(labels)
        if len(axes) < 2:
            return labels
        keep = max(axes, key=lambda axis: labels.shape[axis])
        others = [axis for axis in axes if axis != keep]
        first = labels
        for axis in others:
            first = first.take([0], axis=axis)
        self.couple(first, labels)
        return first

    def pass_on(self, index: int, axis: int) -> np.ndarray:
        """The labels of an input that this call masks; input features become units here."""
        axis %= len(self.input_shapes[index])
        labels = self._raw_as_units(index, axis)
        self.trace.reads.setdefault(id(self.node), {})[index] = axis
        return labels

    def mask(self, vector: np.ndarray, dead: np.ndarray) -> None:
        """Where `dead`, the units of `vector` are set to zero by this call."""
        zeros = np.unique(vector[dead & (vector >= 0)])
        self.trace.masks.append((self.layer, self.path, zeros))
        for tensor in ks.output_tensors(self.node):
            before = self.trace.zeroed.get(id(tensor), zeros[:0])
            self.trace.zeroed[id(tensor)] = np.union1d(before, zeros)

    def _zeroed(self, index: int) -> np.ndarray:
        tensor = ks.input_tensors(self.node)[index]
        return self.trace.zeroed.get(id(tensor), np.zeros(0, np.int64))

    def _raw_as_units(self, index: int, axis: int) -> np.ndarray:
        """With `prune_inputs`, a reader of the model's own features makes units of them."""
        labels = self.inputs[index]
        trace, shape = self.trace, self.input_shapes[index]
        raw = labels.size == 1 and int(labels.flat[0]) in trace.raw
        if not (trace.prune_inputs and raw) or shape[axis] in (None, 1):
            return labels
        tensor = ks.input_tensors(self.node)[index]
        if id(tensor) not in trace.gathers:
            producer = len(trace.producers)
            trace.producers.append(Producer(tensor._keras_history.operation.name, "input features"))
            trace.gathers[id(tensor)] = Gather(axis, trace.units.new(shape[axis], producer))
        gather = trace.gathers[id(tensor)]
        if gather.axis != axis:
            return labels
        return lb.on_axis(len(shape), axis, gather.vector)


def _write_count(key: str) -> Callable:
    def write(config: dict, survivors: Survivors, vector: np.ndarray) -> None:
        config[key] = survivors.count(vector)

    return write
