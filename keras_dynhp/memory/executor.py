"""Runs the kernels of a step on paper, to see what exists at the same time."""

from __future__ import annotations

import random
from collections.abc import Callable
from heapq import heappop, heappush
from typing import NamedTuple

from keras_dynhp.memory.tape import Kernel, Size, Tensor

# A kernel's time, in bytes moved: one floating point operation counts as a fifth of a byte, and
# starting a kernel as much as moving 50 KB. Only which kernels overlap depends on it.
_WORK = 0.2
_START = 50_000
_PACE = (0.3, 1.0, 3.0)


class Moment(NamedTuple):
    """What exists as a kernel starts: tensors together, and the scratch of running kernels."""

    size: Size
    scratch: tuple[Callable[[int], int], ...]

    def at(self, batch: int) -> int:
        """Bytes at this batch size."""
        return self.size.at(batch) + sum(scratch(batch) for scratch in self.scratch)


class Schedule(NamedTuple):
    """One order of a step's kernels.

    Attributes:
        moments: what exists as each kernel starts.
        places: what room is taken, as functions of the batch; what lives on in the room of what
            it replaces takes none.
        moves: in order, `+n` where place number n - 1 is taken and `-n` where it is given back.
    """

    moments: list[Moment]
    places: list[Callable[[int], int]]
    moves: list[int]


class Program:
    """Kernels with their tensors numbered.

    Args:
        kernels: the step, makers before readers.
        resident: tensors that exist before the step and after it: variables.
        fed: tensors that exist from the start of the step until their last reader: the batch.
    """

    def __init__(self, kernels: list[Kernel], resident: list[Tensor], fed: list[Tensor]):
        tensors = {id(tensor): tensor for tensor in (*resident, *fed)}
        for kernel in kernels:
            tensors.update((id(tensor), tensor) for tensor in kernel.makes)
        numbers = {key: number for number, key in enumerate(tensors)}
        self.kernels = kernels
        self.sizes = [tensor.size for tensor in tensors.values()]
        self.resident = [numbers[id(tensor)] for tensor in resident]
        self.fed = [numbers[id(tensor)] for tensor in fed]
        self.reads = [sorted({numbers[id(t)] for t in kernel.reads}) for kernel in kernels]
        self.makes = [[numbers[id(t)] for t in kernel.makes] for kernel in kernels]
        self.updates = [
            None if kernel.updates is None else numbers[id(kernel.updates)] for kernel in kernels
        ]
        self.readers: list[list[int]] = [[] for _ in self.sizes]
        for number, reads in enumerate(self.reads):
            for tensor in reads:
                self.readers[tensor].append(number)

    def schedule(self, threads: int, batch: int, draw: random.Random | None = None) -> Schedule:
        """The order in which the kernels run when so many may run at once.

        As TensorFlow's executor has it: what a finished kernel made possible comes before what
        waited longer. The batch decides how long each kernel takes. A busy machine disturbs that:
        with `draw` kernels take longer or shorter, and start in another order.
        """
        return _Run(self, threads, batch, draw).schedule


class _Run:
    """One step: tensors come into being as kernels start and go with their last reader."""

    def __init__(self, program: Program, threads: int, batch: int, draw: random.Random | None):
        self.program = program
        self.schedule = Schedule([], [], [])
        self.left = [len(readers) for readers in program.readers]
        self.kept = set(program.resident)
        self.fixed = sum(program.sizes[t].fixed for t in program.resident)
        self.each = 0
        self.place: dict[int, int] = {}
        self.scratch: dict[int, list[int]] = {}
        self.copies: dict[int, int] = {}
        for tensor in program.fed:
            self._make(tensor)
        self.draw = draw
        self._run(threads, self._times(batch))

    def _times(self, batch: int) -> list[float]:
        program, draw = self.program, self.draw
        sizes = [size.at(batch) for size in program.sizes]
        return [
            (draw.choice(_PACE) if draw else 1.0)
            * (
                _START
                + sum(sizes[tensor] for tensor in (*reads, *makes))
                + _WORK * kernel.work.at(batch)
            )
            for kernel, reads, makes in zip(program.kernels, program.reads, program.makes)
        ]

    def _run(self, threads: int, times: list[float]) -> None:
        present = {*self.kept, *self.program.fed}
        waits = [sum(tensor not in present for tensor in reads) for reads in self.program.reads]
        ready = [number for number in reversed(range(len(waits))) if not waits[number]]
        running: list[tuple[float, int]] = []
        now = 0.0
        while ready or running:
            while ready and len(running) < threads:
                number = ready.pop()
                self._start(number)
                heappush(running, (now + times[number], number))
                self._record(running)
            now, number = heappop(running)
            ready.extend(reversed(self._finish(number, waits)))

    def _record(self, running: list[tuple[float, int]]) -> None:
        kernels = self.program.kernels
        scratch = tuple(kernels[n].scratch for _, n in running if kernels[n].scratch)
        self.schedule.moments.append(Moment(Size(self.fixed, self.each), scratch))

    def _start(self, number: int) -> None:
        """Make what a kernel makes, and give it its scratch."""
        program = self.program
        donor = self._donor(number) if program.kernels[number].in_place else None
        for tensor in program.makes[number]:
            if donor is None:
                self._make(tensor)
            else:
                self.place[tensor] = self.place.pop(donor)
                donor = None
        if program.kernels[number].scratch:
            self.scratch.setdefault(number, []).append(self._take(program.kernels[number].scratch))
        updated = program.updates[number]
        # A variable whose old value is still being read is not overwritten but replaced.
        if updated is not None and self.left[updated] > (updated in program.reads[number]):
            self.copies[number] = program.sizes[updated].fixed
            self.fixed += self.copies[number]
            self.scratch.setdefault(number, []).append(self._take(program.sizes[updated].at))

    def _donor(self, number: int) -> int | None:
        sizes = self.program.sizes
        wanted = sizes[self.program.makes[number][0]]
        for tensor in self.program.reads[number]:
            if self.left[tensor] == 1 and tensor in self.place and sizes[tensor] == wanted:
                return tensor
        return None

    def _finish(self, number: int, waits: list[int]) -> list[int]:
        """Let go of what nobody reads any more; the kernels that can start now are returned."""
        program = self.program
        self.schedule.moves.extend(-place for place in self.scratch.pop(number, []))
        self.fixed -= self.copies.pop(number, 0)
        for tensor in program.reads[number]:
            self.left[tensor] -= 1
            if not self.left[tensor] and tensor in self.place:
                self._drop(tensor)
        woken = []
        for tensor in program.makes[number]:
            if not program.readers[tensor]:
                self._drop(tensor)
            for reader in program.readers[tensor]:
                waits[reader] -= 1
                if not waits[reader]:
                    woken.append(reader)
        if self.draw:
            self.draw.shuffle(woken)
        return woken

    def _make(self, tensor: int) -> None:
        size = self.program.sizes[tensor]
        self.place[tensor] = self._take(size.at)
        self.fixed += size.fixed
        self.each += size.each

    def _drop(self, tensor: int) -> None:
        size = self.program.sizes[tensor]
        self.schedule.moves.append(-self.place.pop(tensor))
        self.fixed -= size.fixed
        self.each -= size.each

    def _take(self, size: Callable[[int], int]) -> int:
        self.schedule.places.append(size)
        place = len(self.schedule.places)
        self.schedule.moves.append(place)
        return place


def worst(moments: list[Moment]) -> list[Moment]:
    """The moments that can be the worst one at some batch size."""
    kept: dict[tuple, list[Moment]] = {}
    for moment in sorted(set(moments), key=lambda m: m.size, reverse=True):
        rivals = kept.setdefault(tuple(sorted(map(id, moment.scratch))), [])
        if not any(rival.size.each >= moment.size.each for rival in rivals):
            rivals.append(moment)
    return [moment for rivals in kept.values() for moment in rivals]
