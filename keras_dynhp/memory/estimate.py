"""How much memory a training step needs, from the model's graph."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Sequence
from numbers import Integral

import keras

from keras_dynhp.costs.walk import check_is_model, flatten
from keras_dynhp.memory.executor import Program, worst
from keras_dynhp.memory.kernels import write_call
from keras_dynhp.memory.kernels.registry import Step, size_of
from keras_dynhp.memory.machine import Machine
from keras_dynhp.memory.slack import counted, counted_at_worst
from keras_dynhp.memory.tape import Size, Tensor, itemsize
from keras_dynhp.memory.updates import slot_bytes, write_updates
from keras_dynhp.sizes import format_size

# A step differs from its estimate by a few percent either way: kept on the safe side.
_MARGIN = 1.13
# What XLA's kernels were seen to take beyond that on a CPU, in activations: up to 8.2 for
# convolutions of 7 by 7, up to 4.5 in 15 other networks at batches of 8 to 512, and less than
# nothing in some.
_XLA_ACTIVATIONS = 8.5
# Orders of the kernels that are looked at, those among which an unlucky step is sought, and the
# batch for which their times are taken.
_ORDERS = 6
_MANY_ORDERS = 24
_TYPICAL_BATCH = 64
# Slack is worked out at these batch sizes and interpolated between them.
_FIRST_POINT, _POINT_RATIO = 2, 4
# No larger batch is looked for where nothing else limits it.
_LARGEST = 1 << 20


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that one training step needs at its worst moment.

    Attributes:
        weights: all variables of the model.
        gradients: gradients held at once; each is given back when its variable is updated, so in
            a deep network these are fewer than the trainable weights.
        optimizer: the optimizer's slots.
        activations: what the forward pass makes and the backward pass reads.
        inputs: one batch of inputs and labels.
        workspace: what kernels and the optimizer's update need for a moment, with what
            TensorFlow's allocator hands out beyond what it is asked for.
        total: the sum.

    >>> print(MemoryEstimate(4096, 4096, 8192, 1024, 512, 2048))
    weights       4.0 KB
    gradients     4.0 KB
    optimizer     8.0 KB
    activations   1.0 KB
    inputs         512 B
    workspace     2.0 KB
    total        19.5 KB
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    inputs: int
    workspace: int

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))

    def to_dict(self) -> dict[str, int]:
        """Names and bytes, `total` last."""
        return {**dataclasses.asdict(self), "total": self.total}

    def __str__(self) -> str:
        return "\n".join(f"{k:<12}{format_size(v):>8}" for k, v in self.to_dict().items())


def estimate_memory(
    model: keras.Model,
    batch_size: int,
    optimizer: keras.optimizers.Optimizer | str | None = None,
) -> MemoryEstimate:
    """Estimate the memory of one training step on this machine, in bytes.

    The kernels of a step are written down from the model's graph: what TensorFlow's gradients
    keep of every layer, what its kernels need for a moment (on a CPU without oneDNN the gradients
    of a convolution lay out image columns in up to 30 MB, whatever the batch), and the copies that
    Keras's optimizers make. They are then run on paper, as many at a time as TensorFlow would, and
    the worst moment is what counts. It is meant to lie on or above what TensorFlow's allocator
    then reports; the input pipeline's own memory comes on top.

    It is an estimate of training as Keras runs it without XLA, one batch a call, on one device.
    With XLA on a GPU (Keras's default there) kernels are fused and usually need less. On a CPU
    (`jit_compile=True`) its convolutions need more, by no rule: 8.5 times the activations are
    added, which was enough in all networks that were measured and is far too much for most. On a
    GPU no workspace is counted for cuDNN's convolutions, which choose it by what is free.

    Args:
        model: a built Sequential or Functional model, nested as it may be.
        batch_size: samples in a batch.
        optimizer: whose slots and update count, built or not, or its name; None: the one the
            model is compiled with, and no update if it is not compiled.

    Raises:
        TypeError: for what is no Keras model.
        ValueError: for a batch size that is not a positive integer, a subclassed or unbuilt model,
            or an axis of unknown length.

    Example:

    >>> import keras
    >>> from keras_dynhp.memory import estimate_memory
    >>> model = keras.Sequential(
    ...     [keras.Input((784,)), keras.layers.Dense(300), keras.layers.Dense(10)]
    ... )
    >>> estimate = estimate_memory(model, batch_size=32, optimizer="adam")
    >>> estimate.weights, estimate.optimizer, estimate.inputs
    (954040, 1908080, 101632)
    """
    return StepMemory(model, optimizer).at(batch_size)


def largest_batch(
    model: keras.Model,
    budget: int,
    optimizer: keras.optimizers.Optimizer | str | None = None,
    maximum: int | None = None,
) -> int:
    """The largest batch whose estimated memory is within a budget; 0 if not even one sample fits.

    Args:
        model: as for `estimate_memory`.
        budget: bytes.
        optimizer: as for `estimate_memory`.
        maximum: no batch larger than this is looked at; 1,048,576 if None.
    """
    memory = StepMemory(model, optimizer)
    return largest_that(lambda batch: memory.at(batch).total <= budget, maximum)


def largest_that(fits: Callable[[int], bool], maximum: int | None = None) -> int:
    """The largest batch size that fits, where every smaller one does too; 0 if none does.

    >>> largest_that(lambda batch: 10 * batch <= 1234)
    123
    """
    low, high = 0, 1
    most = _LARGEST if maximum is None else maximum
    while high < most and fits(high):
        low, high = high, 2 * high
    high = min(high, most) + 1
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low


class StepMemory:
    """The memory of a model's training step as a function of the batch size.

    Making one reads the model; asking it is then cheap. Arguments as for `estimate_memory`.
    `is_foreseen` is False where XLA decides, about which nothing is known but what was measured.

    Args:
        machine: what the step runs on; this machine by default.
        pruning: whether a callback of this package prunes the model meanwhile.
        samples: for each input the shape of one sample, for lengths that the model leaves open.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer=None,
        machine: Machine | None = None,
        pruning: bool = False,
        samples: Sequence[tuple[int | None, ...]] | None = None,
    ):
        check_is_model(model)
        if optimizer is None:
            optimizer = getattr(model, "optimizer", None)
        optimizer = None if optimizer is None else keras.optimizers.get(optimizer)
        self._machine = machine or Machine.here()
        self.is_foreseen = self._machine.gpu or not getattr(model, "jit_compile", False)
        trainable = model.trainable_variables
        step, fed = _write_step(model, self._machine, samples)
        write_updates(step.tape, optimizer, trainable, pruning)
        self._weights = [tensor.size.fixed for tensor in step.tape.variables.values()]
        self._slots = slot_bytes(optimizer, trainable)
        self._gradients = _sum(list(step.tape.gradients.values()))
        self._inputs = _sum(fed)
        self._activations = _sum(step.tape.kept())
        program = Program(step.tape.kernels, list(step.tape.variables.values()), fed)
        self._schedules = self._orders(program)
        usual = self._schedules[:_ORDERS]
        self._moments = worst([m for schedule in usual for m in schedule.moments])
        self._slack: dict[int, tuple[float, ...]] = {}

    def at(self, batch_size: int) -> MemoryEstimate:
        """The estimate at a batch size."""
        whole = isinstance(batch_size, Integral) and not isinstance(batch_size, bool)
        if not whole or batch_size < 1:
            raise ValueError(
                f"batch_size must be a positive integer, such as 32. Received: {batch_size!r}"
            )
        batch_size = int(batch_size)  # NumPy's would make NumPy's of all that follows
        weights, slots = sum(self._weights), sum(self._slots)
        inputs, activations = self._inputs.at(batch_size), self._activations.at(batch_size)
        held = weights + slots + inputs + activations
        peak = max(self._total(batch_size), held)
        if not self.is_foreseen:
            peak += int(_XLA_ACTIVATIONS * activations)
        gradients = min(self._gradients.at(batch_size), peak - held)
        return MemoryEstimate(
            weights, gradients, slots, activations, inputs, peak - held - gradients
        )

    def _orders(self, program: Program):
        threads = self._machine.threads
        draw = random.Random(0)
        schedules = [program.schedule(1, _TYPICAL_BATCH), program.schedule(threads, _TYPICAL_BATCH)]
        while len(schedules) < _MANY_ORDERS and threads > 1:
            schedules.append(program.schedule(threads, _TYPICAL_BATCH, draw))
        return schedules

    def _total(self, batch: int) -> int:
        asked, (usual, unlucky) = self._asked(batch), self._interpolated_slack(batch)
        return int(max(_MARGIN * (asked + usual), asked + unlucky))

    def _asked(self, batch: int) -> int:
        return sum(self._slots) + max(moment.at(batch) for moment in self._moments)

    def _interpolated_slack(self, batch: int) -> tuple[float, ...]:
        """Between two points in proportion; it never shrinks as the batch grows."""
        below, above = 0, _FIRST_POINT
        while above < batch:
            below, above = above, above * _POINT_RATIO
        if above == batch or not below:
            return self._slack_at(above)
        share = (batch - below) / (above - below)
        pairs = zip(self._slack_at(below), self._slack_at(above))
        return tuple(low + (high - low) * share for low, high in pairs)

    def _slack_at(self, point: int) -> tuple[float, ...]:
        """The slack of usual and of unlucky steps; that of a smaller point where it is larger."""
        if point not in self._slack:
            asked = self._asked(point)
            resident = [*self._weights, *self._slots]
            usual = counted(self._schedules[:_ORDERS], resident, point, asked)
            unlucky = counted_at_worst(self._schedules, resident, point, asked)
            most: tuple[float, ...] = (max(0, usual - asked), max(0, unlucky - asked))
            smaller = point // _POINT_RATIO
            # A block is never twice as large as what was asked for.
            if smaller >= _FIRST_POINT and self._asked(smaller) > min(most):
                most = tuple(max(pair) for pair in zip(most, self._slack_at(smaller)))
            self._slack[point] = most
        return self._slack[point]


def _write_step(model: keras.Model, machine: Machine, samples) -> tuple[Step, list[Tensor]]:
    """The forward and the backward pass on a tape, and the tensors of a batch."""
    graph = flatten(model, samples)
    step = Step(machine)
    tape = step.tape
    for variable in model.variables:
        tape.weight(variable)
    known = {id(s): Tensor(size_of(s), shape=s.shape, dtype=s.dtype) for s in graph.inputs}
    fed = list(known.values())
    for call in graph.calls:
        made = write_call(step, call, [known[id(symbol)] for symbol in call.inputs])
        known.update((id(symbol), tensor) for symbol, tensor in zip(call.outputs, made))
    losses = []
    for symbol in graph.outputs:
        output = known[id(symbol)]
        labels = Tensor(_labels(model, symbol))
        fed.append(labels)
        losses.append((output, tape.op("Loss", [output, labels], output.size)))
    tape.first_backward = len(tape.kernels)
    tape.backward(
        [(out, tape.op("LossGrad", [loss], out.size, in_place=True)) for out, loss in losses]
    )
    return step, fed


def _labels(model: keras.Model, symbol) -> Size:
    """Labels: one integer for each position where the loss takes classes, else as the output."""
    names = [
        getattr(loss, "name", None) or getattr(loss, "__name__", None) or str(loss)
        for loss in keras.tree.flatten(getattr(model, "loss", None))
    ]
    if names and all("sparse" in name.lower() for name in names):
        return Size(0, 8 * math.prod(symbol.shape[1:-1]))
    return Size(0, symbol.size * itemsize(symbol.dtype))


def _sum(tensors: list[Tensor]) -> Size:
    return Size(sum(t.size.fixed for t in tensors), sum(t.size.each for t in tensors))
