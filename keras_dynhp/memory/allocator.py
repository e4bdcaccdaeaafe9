"""TensorFlow's best-fit allocator on paper: which block each tensor of a step is handed."""

from __future__ import annotations

from bisect import bisect_left, insort

ALIGNMENT = 256
FIRST_REGION = 2 << 20
MAX_UNSPLIT = 128 << 20


class BestFit:
    """What `BFCAllocator` counts as in use, which is more than what was asked for.

    Modelled after TensorFlow's `bfc_allocator.cc`. Memory comes in regions, each twice as large as
    the one before. A request gets the smallest free block that holds it, and the whole of it
    unless the block is at least twice as large (or 128 MB larger): then only its front is cut off.
    The bytes in use are the sizes of the blocks. A network of few large tensors therefore counts
    up to twice what it asked for; one of many small ones hardly more.

    Args:
        pin: bytes at the front of every region that something else already holds, such as a
            piece of the input pipeline; they are not counted.

    Example:

    >>> memory = BestFit()
    >>> first = memory.allocate(1_000_000)
    >>> second = memory.allocate(900_000)  # gets the rest of the first 2 MB
    >>> memory.in_use
    2097152
    >>> memory.release(second)
    >>> memory.in_use
    1000192
    """

    def __init__(self, pin: int = 0):
        self.in_use = 0
        self.peak = 0
        self._pin = -(-pin // ALIGNMENT) * ALIGNMENT
        self._free: list[tuple[int, int]] = []
        self._size: dict[int, int] = {}
        self._is_free: set[int] = set()
        self._before: dict[int, int] = {}
        self._next_region = FIRST_REGION
        self._end = 0

    def allocate(self, size: int) -> int:
        """The start of the block handed out for a request of so many bytes."""
        size = -(-size // ALIGNMENT) * ALIGNMENT or ALIGNMENT
        free = self._free
        at = bisect_left(free, (size, 0))
        whole, start = free.pop(at) if at < len(free) else self._new_region(size)
        self._is_free.discard(start)
        if whole >= 2 * size or whole - size >= MAX_UNSPLIT:
            self._cut(start, whole, size)
            whole = size
        self.in_use += whole
        if self.in_use > self.peak:
            self.peak = self.in_use
        return start

    def release(self, start: int) -> None:
        """Take a block back; free neighbours become one block."""
        size = self._size[start]
        self.in_use -= size
        after = start + size
        if after in self._is_free:
            size += self._forget(after)
        before = self._before.get(start)
        if before in self._is_free:
            size += self._size[before]
            self._free.pop(bisect_left(self._free, (self._size[before], before)))
            del self._size[start], self._before[start]
            start = before
        self._size[start] = size
        if start + size in self._size:
            self._before[start + size] = start
        self._is_free.add(start)
        insort(self._free, (size, start))

    def _cut(self, start: int, whole: int, size: int) -> None:
        rest, after = start + size, start + whole
        self._size[start], self._size[rest] = size, whole - size
        self._before[rest] = start
        if after in self._size:
            self._before[after] = rest
        self._is_free.add(rest)
        insort(self._free, (whole - size, rest))

    def _forget(self, start: int) -> int:
        """Strike a free block off all lists; its size is returned."""
        size = self._size.pop(start)
        self._free.pop(bisect_left(self._free, (size, start)))
        self._is_free.discard(start)
        self._before.pop(start, None)
        return size

    def _new_region(self, size: int) -> tuple[int, int]:
        grown = False
        while self._next_region < size + self._pin:
            self._next_region *= 2
            grown = True
        # The gap keeps neighbouring regions apart: they are never merged.
        start = self._end + ALIGNMENT + self._pin
        self._end = start - self._pin + self._next_region
        whole = self._next_region - self._pin
        self._size[start] = whole
        if not grown:
            self._next_region *= 2
        return whole, start
