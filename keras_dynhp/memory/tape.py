"""One training step as a list of kernels: what each reads, makes and needs for a moment."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import keras


class Size(NamedTuple):
    """A number of bytes that grows with the batch: `fixed + each * batch`."""

    fixed: int = 0
    each: int = 0

    def at(self, batch: int) -> int:
        """Bytes at this batch size."""
        return self.fixed + self.each * batch

    def times(self, factor: float) -> Size:
        """This size several times over."""
        return Size(int(self.fixed * factor), int(self.each * factor))


def itemsize(dtype: str) -> int:
    """Bytes of one value.

    >>> itemsize("float32"), itemsize("bool")
    (4, 1)
    """
    if dtype in ("bool", "string"):
        return 1
    return max(1, int("".join(c for c in dtype.split("_")[0] if c.isdigit()) or 32) // 8)


class Tensor:
    """A tensor of the step.

    Args:
        size: its bytes.
        trains: whether a gradient flows to it.
        shape: its shape for a batch of one, where a rule needs it.
        dtype: type of its values.
        sliced: whether it is the gradient of a table as `tf.IndexedSlices`: a row for each lookup.
    """

    __slots__ = ("dtype", "shape", "size", "sliced", "trains")

    def __init__(
        self, size: Size, trains: bool = False, shape: tuple = (), dtype="float32", sliced=False
    ):
        self.size = size
        self.sliced = sliced
        self.trains = trains
        self.shape = shape
        self.dtype = dtype


class Kernel:
    """One kernel.

    Args:
        name: the TensorFlow operation.
        reads: tensors that must exist while it runs.
        makes: tensors it makes.
        in_place: whether a tensor it is the last to read may become the one it makes.
        scratch: bytes it needs while it runs, as a function of the batch.
        work: floating point operations.
        updates: the variable it overwrites; who still reads the old value keeps a copy alive.
    """

    __slots__ = ("in_place", "makes", "name", "reads", "scratch", "updates", "work")

    def __init__(self, name, reads, makes, in_place=False, scratch=None, work=None, updates=None):
        self.name = name
        self.reads = list(reads)
        self.makes = list(makes)
        self.in_place = in_place
        self.scratch = scratch
        self.work = work or Size()
        self.updates = updates


class Tape:
    """Writes down the kernels of a forward pass, and those of the backward pass it asks for.

    A rule (see `kernels/`) calls `op` for each kernel of a layer's forward pass and says in
    `on_gradient` which kernels turn the gradient of what it made into the gradients of what it
    read. What the backward pass keeps follows from that: every tensor that a kernel of the
    backward pass reads.
    """

    def __init__(self):
        self.kernels: list[Kernel] = []
        self.variables: dict[int, Tensor] = {}
        self.gradients: dict[int, Tensor] = {}
        self.first_backward = 0
        self._records: list[tuple[list[Tensor], Callable]] = []
        self._casts: dict[tuple[int, str], Tensor] = {}
        self._arrived: dict[int, list[Tensor]] = {}
        self._owners: dict[int, object] = {}

    def op(
        self,
        name: str,
        reads: Iterable[Tensor],
        size: Size,
        in_place: bool = False,
        scratch: Callable[[int], int] | None = None,
        work: Size | None = None,
    ) -> Tensor:
        """A kernel that makes one tensor."""
        reads = list(reads)
        made = Tensor(size, any(tensor.trains for tensor in reads))
        self.kernels.append(Kernel(name, reads, [made], in_place, scratch, work))
        return made

    def weight(self, variable: keras.Variable, dtype: str | None = None) -> Tensor:
        """What a kernel reads of a variable, cast to the type that the layer computes in."""
        tensor = self.variables.get(id(variable))
        if tensor is None:
            tensor = Tensor(variable_size(variable), bool(variable.trainable), dtype=variable.dtype)
            self.variables[id(variable)] = tensor
            self._owners[id(tensor)] = variable
        if dtype is None or dtype == variable.dtype or not variable.dtype.startswith("float"):
            return tensor
        if (id(variable), dtype) not in self._casts:
            count = math.prod(variable.shape)
            cast = self.op("Cast", [tensor], Size(count * itemsize(dtype)))
            self._casts[id(variable), dtype] = cast
            self.on_gradient(cast, lambda dy: self.send(tensor, self._like("Cast", dy, tensor)))
        return self._casts[id(variable), dtype]

    def on_gradient(self, made: Tensor | list[Tensor], rule: Callable) -> None:
        """Have `rule(gradient, ...)` called in the backward pass, with one gradient per tensor.

        A tensor that no gradient reaches is given as None.
        """
        tensors = made if isinstance(made, list) else [made]
        if any(tensor.trains for tensor in tensors):
            self._records.append((tensors, rule))

    def send(self, tensor: Tensor, gradient: Tensor) -> None:
        """A gradient that arrives at a tensor of the forward pass."""
        if tensor.trains:
            self._arrived.setdefault(id(tensor), []).append(gradient)

    def backward(self, output_gradients: list[tuple[Tensor, Tensor]]) -> None:
        """Write down the backward pass, from the gradients of the model's outputs."""
        for tensor, gradient in output_gradients:
            self.send(tensor, gradient)
        for tensors, rule in reversed(self._records):
            arrived = [self._sum(tensor) for tensor in tensors]
            if any(gradient is not None for gradient in arrived):
                rule(*arrived)
        for key, tensor in self.variables.items():
            gradient = self._sum(tensor)
            if gradient is not None:
                self.gradients[key] = gradient

    def _sum(self, tensor: Tensor) -> Tensor | None:
        arrived = self._arrived.pop(id(tensor), [])
        if len(arrived) < 2:
            return arrived[0] if arrived else None
        if all(gradient.sliced for gradient in arrived):
            sizes = [gradient.size for gradient in arrived]
            rows = Size(sum(size.fixed for size in sizes), sum(size.each for size in sizes))
            joined = self.op("ConcatV2", arrived, rows)
            joined.sliced = True
            return joined
        dense = [
            self._like("UnsortedSegmentSum", gradient, tensor) if gradient.sliced else gradient
            for gradient in arrived
        ]
        return self.op("AddN", dense, tensor.size, in_place=True)

    def _like(self, name: str, read: Tensor, like: Tensor) -> Tensor:
        return self.op(name, [read], like.size)

    def kept(self) -> list[Tensor]:
        """Tensors made in the forward pass that the backward pass reads."""
        made = {id(t) for kernel in self.kernels[: self.first_backward] for t in kernel.makes}
        kept = {}
        for kernel in self.kernels[self.first_backward :]:
            kept.update((id(t), t) for t in kernel.reads if id(t) in made)
        return list(kept.values())


def variable_size(variable) -> Size:
    """Bytes of a variable."""
    return Size(math.prod(variable.shape) * itemsize(variable.dtype))
