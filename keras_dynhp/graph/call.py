"""One call of one operation, as its rule sees it."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import keras
import numpy as np

from keras_dynhp.graph import labels as lb
from keras_dynhp.graph.records import (
    ALONG,
    IN,
    INSIDE,
    OUT,
    Barrier,
    Gather,
    InsideRead,
    Producer,
    VariableLabels,
)
from keras_dynhp.graph.registry import find_rule
from keras_dynhp.graph.survivors import Survivors
from keras_dynhp.keras_state import graph as ks


class Call:
    """One call of one operation, as its rule sees it.

    A rule is a function of a `Call` that returns the labels of the output (a list of them where
    there are several). `call.layer` is the layer or operation; `call.inputs` the labels of each
    input tensor and `call.input_shapes` their shapes; `call.output_shapes` those of the outputs.
    """

    def __init__(self, trace, node, path: str, inputs: list[np.ndarray]):
        self.trace = trace
        self.node = node
        self.path = path
        self.layer = node.operation
        self.inputs = inputs
        self.input_shapes = [tuple(t.shape) for t in ks.input_tensors(node)]
        self.output_shapes = [tuple(t.shape) for t in ks.output_tensors(node)]
        self.args, self.kwargs = ks.call_arguments(node)
        # Of a call inside another layer (see `inside`):
        self.axis_offset = 0  # how many axes the outer layer takes away behind the batch axis
        self.hidden = False  # its input never leaves the outer layer
        self.dead: dict[tuple[int, int], np.ndarray] = {}  # masked reads: (variable, axis) -> where

    # ---- running the rule -------------------------------------------------------------------

    def run(self) -> list[np.ndarray]:
        """Apply the rule and check what it says against the shapes."""
        self.trace.calls[id(self.layer)] = self.trace.calls.get(id(self.layer), 0) + 1
        self._keep_given_masks()
        rule, why = find_rule(self.layer)
        outputs = self.barrier(why) if rule is None else self._ask(rule)
        if isinstance(outputs, np.ndarray):
            outputs = [outputs]
        if not isinstance(outputs, (list, tuple)) or not all(
            isinstance(labels, np.ndarray) for labels in outputs
        ):
            raise ValueError(
                f"The rule for layer {self.path!r} ({type(self.layer).__name__}) must return the "
                "labels of its output (`call.along(neurons)`), or a list of them. Received: "
                f"{outputs!r}"
            )
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
            if not lb.varying(labels):
                self.pin(labels, "a channel that stands for a whole axis")
        return list(outputs)

    def _ask(self, rule: Callable):
        """What a rule returns; whatever it raises names the layer."""
        try:
            return rule(self)
        except Exception as error:
            if self.path in str(error):
                raise
            raise ValueError(
                f"The rule for layer {self.path!r} ({type(self.layer).__name__}) failed: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _keep_given_masks(self) -> None:
        """Channels of a tensor that says which positions count can't follow those it is for."""
        if len(self.inputs) < 2 or not isinstance(self.layer, keras.layers.Layer):
            return
        if not (self.args or self.kwargs):  # inside another layer
            return
        for name, value in self.arguments().items():
            if name.endswith("mask"):
                for tensor in filter(is_symbolic, keras.tree.flatten(value)):
                    self.pin(self.inputs[self.index_of(tensor)], "given as a mask")

    def inside(self, layer, key: str | None = None, **changes) -> Call:
        """A call of a layer inside this one, with this call's inputs unless `changes` says else.

        `key` is the entry of this layer's configuration that holds the inner layer (or a list of
        them, filled in the order of the calls).
        """
        inner = object.__new__(Call)
        inner.__dict__.update(self.__dict__)
        inner.layer, inner.path = layer, f"{self.path}/{layer.name}"
        inner.__dict__.update(changes)
        self.trace.paths[id(layer)] = inner.path
        if key is not None:
            parts = self.trace.parts.setdefault(id(self.layer), {})
            parts.setdefault(key, [])
            if not any(part is layer for part in parts[key]):
                parts[key].append(layer)
        return inner

    # ---- what was given ---------------------------------------------------------------------

    def arguments(self) -> dict[str, object]:
        """The arguments of the call by name."""
        bound = inspect.signature(self.layer.call).bind_partial(*self.args, **self.kwargs)
        return dict(bound.arguments)

    def index_of(self, tensor) -> int:
        """The number, among the inputs, of a symbolic tensor that was given."""
        tensors = ks.input_tensors(self.node)
        return next(i for i, one in enumerate(tensors) if one is tensor)

    def varies(self, index: int = 0) -> tuple[int, ...]:
        """The axes of an input along which its labels vary."""
        return lb.varying(self.inputs[index])

    def of_inputs(self, vector: np.ndarray) -> bool:
        """Whether there are input features of the model among these labels."""
        gathers = self.trace.gathers.values()
        return any(np.isin(vector, gather.vector).any() for gather in gathers)

    # ---- what a rule can say ----------------------------------------------------------------

    def read(self, index: int = 0, axis: int = -1, weightless: bool = False) -> np.ndarray:
        """Input `index` is mixed along `axis`; returns the labels along it.

        Reading a masked neuron must be the same as reading zero: the rule promises that a zero in
        the input has no effect. `weightless=True` where no variable holds the reading weights.
        """
        shape = self.input_shapes[index]
        axis %= len(shape)
        labels = self.inputs[index] if self.hidden else self._raw_as_units(index, axis)
        self._given_as(index, labels)
        elsewhere = [a for a in lb.varying(labels) if a != axis]
        if elsewhere:
            self.trace.units.pin(
                labels,
                f"{self.path} works on axis {axis} of a tensor whose channels lie on axis "
                f"{elsewhere[0]}",
            )
            labels = lb.blank(len(shape), self.fixed(f"read by {self.path} along another axis"))
        vector = lb.axis_vector(labels, axis, shape[axis])
        if self.hidden:
            if weightless:
                self.pin(vector, "mixes them inside a layer, without weights")
            return vector
        self.trace.reads.setdefault(id(self.node), {})[index] = axis + self.axis_offset * (axis > 0)
        self.trace.live.append(vector[~np.isin(vector, self._zeroed(index))])
        if weightless:
            self.trace.weightless_reads.append(vector)
        return vector

    def channels(self, index: int = 0, axis: int = -1) -> np.ndarray:
        """The labels of input `index` along `axis`, which the layer treats one by one."""
        shape, labels = self.input_shapes[index], self.inputs[index]
        axis %= len(shape)
        if set(lb.varying(labels)) - {axis}:
            self.pin(labels, f"works on axis {axis} of a tensor whose channels lie elsewhere")
            labels = lb.blank(len(shape), self.fixed(f"passed by {self.path} along another axis"))
        return lb.axis_vector(labels, axis, shape[axis])

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

        Axes are named from the first; `role` is "in", "out", "along" (the default), or "inside"
        for units that the layer reads inside itself.
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
            if role not in (IN, OUT, ALONG, INSIDE):
                raise ValueError(
                    f"The rule for layer {self.path!r} gave axis {axis} of variable "
                    f"{variable.path!r} the role {role!r}. Choose from {IN!r}, {OUT!r}, "
                    f"{ALONG!r}, {INSIDE!r}."
                )
            if vector is not None and len(vector) != variable.shape[axis]:
                raise ValueError(
                    f"The rule for layer {self.path!r} gave {len(vector)} labels for axis {axis} "
                    f"of variable {variable.path!r}, whose shape is {tuple(variable.shape)}."
                )
            if role == INSIDE or (role == IN and self.hidden):
                self._read_inside(variable, axis, vector)
                role = IN
            vectors.append(vector)
            roles.append(role if vector is not None else None)
        known = self.trace.variables.get(id(variable))
        if known is None:
            self.trace.variables[id(variable)] = VariableLabels(variable, self.path, vectors, roles)
            return
        for axis, (before, now) in enumerate(zip(known.vectors, vectors)):
            if before is None and now is None:
                continue
            if before is None or now is None:  # in one of the calls the axis can't become shorter
                known.vectors[axis], known.roles[axis] = None, None
                self.pin(now if before is None else before, "its other calls can't follow")
            else:
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
        for labels in self.inputs:
            self.trace.units.pin(labels, f"read by {self.path}: {why}")
        code = self.fixed(f"comes out of {self.path}: {why}")
        outputs = [lb.blank(len(shape), code) for shape in self.output_shapes]
        keeps_shape = len(self.inputs) == 1 and self.input_shapes == self.output_shapes
        self.trace.barriers.setdefault(self.path, []).append(
            Barrier(why, self.inputs, outputs, keeps_shape)
        )
        return outputs

    def features(self, why: str) -> list[np.ndarray]:
        """Made from data alone: what comes out is as good as an input feature of the model."""
        for labels in self.inputs:
            self.pin(labels, why)
        code = self.fixed(f"made by {self.path}")
        self.trace.raw.add(code)
        return [lb.blank(len(shape), code) for shape in self.output_shapes]

    def resize(self, key, vector: np.ndarray, write: Callable | None = None) -> None:
        """On rebuild, `config[key]` becomes the number of surviving labels in `vector`.

        `write(config, survivors, vector)` changes the configuration in another way.
        """
        entries = self.trace.resizes.setdefault(id(self.layer), {})
        if key in entries:
            self.couple(entries[key][1], vector)
        entries[key] = (write or _write_count(key), vector)
        uses = self.trace.resized.setdefault(id(self.layer), {})
        uses[key] = uses.get(key, 0) + 1

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

    def opaque(self, why: str, output: int = 0) -> np.ndarray:
        """Output labels of positions that stay."""
        return lb.blank(len(self.output_shapes[output]), self.fixed(f"{why} {self.path}"))

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

    # ---- masks ------------------------------------------------------------------------------

    def pass_on(self, index: int, axis: int) -> np.ndarray:
        """The labels of an input that this call masks; input features become units here."""
        axis %= len(self.input_shapes[index])
        labels = self._raw_as_units(index, axis)
        self.trace.reads.setdefault(id(self.node), {})[index] = axis
        return labels

    def mask(self, layer, vector: np.ndarray, dead: np.ndarray) -> None:
        """Where `dead`, the units of `vector` are set to zero by this call, a mask `layer`."""
        zeros = np.unique(vector[dead])
        self.trace.masks.append((layer, self.path, zeros))
        zeros = zeros[zeros >= 0]
        for tensor in ks.output_tensors(self.node):
            before = self.trace.zeroed.get(id(tensor), zeros[:0])
            self.trace.zeroed[id(tensor)] = np.union1d(before, zeros)

    def _read_inside(self, variable, axis: int, vector: np.ndarray) -> None:
        dead = self.dead.get((id(variable), axis))
        self.trace.live.append(vector if dead is None else vector[~dead])
        reads = self.trace.inside_reads.setdefault(id(self.node.operation), {})
        reads.setdefault((id(variable), axis), InsideRead(variable, axis, vector))
        if dead is not None:
            self.trace.masks.append((None, self.path, np.unique(vector[dead])))

    def _given_as(self, index: int, labels: np.ndarray) -> None:
        """A tensor may be given several times: what reading it made of it holds for all."""
        tensors = ks.input_tensors(self.node)
        for number in range(len(self.inputs)):
            if tensors[number] is tensors[index]:
                self.inputs[number] = labels

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
        outer = axis + self.axis_offset * (axis > 0)
        key = id(tensor), outer  # readers along another axis select for themselves
        if key not in trace.gathers:
            producer = len(trace.producers)
            trace.producers.append(Producer(ks.maker_of(tensor).name, "input features"))
            trace.gathers[key] = Gather(outer, trace.units.new(shape[axis], producer))
        return lb.on_axis(len(shape), axis, trace.gathers[key].vector)


def _write_count(key: str) -> Callable:
    def write(config: dict, survivors: Survivors, vector: np.ndarray) -> None:
        config[key] = survivors.count(vector)

    return write


def is_symbolic(value: object) -> bool:
    """Whether an argument of a call is a tensor of the graph, not a constant."""
    return isinstance(value, keras.KerasTensor)
