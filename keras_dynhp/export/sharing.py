"""A FlatBuffer builder that writes nothing twice and leaves next to no gaps."""

from __future__ import annotations

import itertools

import flatbuffers
import numpy as np
from flatbuffers.number_types import UOffsetTFlags

# The schema asks for it: `data: [ubyte] (force_align: 16)`. Nothing else has bytes in a vector.
_DATA_ALIGNMENT = 16
_LENGTH = 4


class SharingBuilder(flatbuffers.Builder):
    """A builder in which equal vectors and equal tables are one, named from several places.

    The fields of a table are sorted by their size, so that single bytes lie together.
    """

    def __init__(self):
        super().__init__(1024)
        self.vectors: list[np.ndarray] = []
        self._vector_offsets: dict[tuple, int] = {}
        self._table_offsets: dict[tuple, int] = {}
        self._fields: list[tuple] = []

    def write_vectors(self, vectors: list[np.ndarray]) -> None:
        """Write vectors ahead of the tables that name them: small ones into the gaps before large.

        A FlatBuffer is written from its end to its start, so what is written first lies last.
        """
        small: dict[int, list[np.ndarray]] = {}
        for x in vectors:
            if _alignment(x) == _LENGTH:
                small.setdefault(_LENGTH + x.nbytes, []).append(x)
        large = [x for x in vectors if _alignment(x) > _LENGTH]
        for x in sorted(large, key=lambda x: (-_alignment(x), x.nbytes)):
            gap = -(self.Offset() + x.nbytes) % _alignment(x)
            for size in _fillers(small, gap - gap % _LENGTH, _alignment(x)):
                self.CreateNumpyVector(small[size].pop())
            self.CreateNumpyVector(x)
        for size in small:
            for x in small[size]:
                self.CreateNumpyVector(x)

    def CreateNumpyVector(self, x):
        key = (x.dtype.str, x.tobytes())
        if key not in self._vector_offsets:
            self.vectors.append(x)
            self.StartVector(x.itemsize, x.size, _alignment(x))
            self.head -= x.nbytes
            self.Bytes[self.Head() : self.Head() + x.nbytes] = key[1]
            self._vector_offsets[key] = self.EndVector()
        return self._vector_offsets[key]

    def StartObject(self, numfields):
        super().StartObject(numfields)
        self._fields = []

    def PrependSlot(self, flags, o, x, d):
        if x != d:
            self._fields.append((flags.bytewidth, o, x, flags))

    def PrependUOffsetTRelativeSlot(self, o, x, d):
        if x != d:
            self._fields.append((UOffsetTFlags.bytewidth, o, x, None))

    def EndObject(self):
        # Two tables with the same offsets in them name the same things. A number is no offset, be
        # it the same: a table stores how far away the thing is from there.
        key = tuple(sorted((*field[:3], field[3] is None) for field in self._fields))
        if key in self._table_offsets:
            self.nested = False
            self.current_vtable = None
            return self._table_offsets[key]
        for _, slot, value, flags in sorted(self._fields, key=lambda field: field[:2]):
            if flags is None:
                self.PrependUOffsetTRelative(value)
            else:
                self.Prepend(flags, value)
            self.Slot(slot)
        self._table_offsets[key] = super().EndObject()
        return self._table_offsets[key]


def _alignment(x: np.ndarray) -> int:
    return _DATA_ALIGNMENT if x.dtype == np.uint8 else max(_LENGTH, x.itemsize)


def _fillers(small: dict[int, list], gap: int, alignment: int) -> tuple[int, ...]:
    """Sizes of one or two of the small vectors that fill a gap, or none."""
    sizes = sorted(size for size in small if small[size])
    for count in (1, 2) if gap else ():
        for chosen in itertools.combinations_with_replacement(sizes, count):
            enough = all(chosen.count(size) <= len(small[size]) for size in chosen)
            if enough and sum(chosen) % alignment == gap:
                return chosen
    return ()
