"""What the allocator counts beyond what a step asks for."""

from __future__ import annotations

import random

from keras_dynhp.memory.allocator import BestFit
from keras_dynhp.memory.executor import Schedule

_LAYOUTS = 12
_STEPS = 2
_NEGLIGIBLE = 1 / 500


def counted(schedules: list[Schedule], resident: list[int], batch: int, asked: int) -> int:
    """Bytes that the allocator counts at the worst moment of a step.

    Where a tensor lands depends on what was there before and on which kernels happen to overlap,
    so steps are replayed from several starting layouts (always the same ones). The peak of an
    epoch is that of its unluckiest step: the second highest of the replays is taken.

    Args:
        schedules: orders of the kernels to replay.
        resident: bytes of each variable.
        batch: the batch size.
        asked: the most that the step asks for at once.
    """
    draw = random.Random(0)
    least = asked * _NEGLIGIBLE
    replays = [_moves(schedule, batch, least) for schedule in schedules]
    peaks = [_replay(replays[i % len(replays)], resident, draw) for i in range(_LAYOUTS)]
    return sorted(peaks)[-2]


def _moves(schedule: Schedule, batch: int, least: float) -> tuple[list[int], list[int]]:
    """The sizes of a schedule's places, and its moves without those of negligible places."""
    sizes = [0, *(size(batch) for size in schedule.places)]
    return sizes, [move for move in schedule.moves if sizes[abs(move)] >= least]


def _replay(replay: tuple[list[int], list[int]], resident: list[int], draw: random.Random) -> int:
    sizes, moves = replay
    memory = BestFit()
    before = [memory.allocate(int(10 ** draw.uniform(3, 6))) for _ in range(draw.randint(0, 6))]
    for start in before[::2]:
        memory.release(start)
    others = memory.in_use
    for size in resident:
        memory.allocate(size)
    for _ in range(_STEPS):
        taken: dict[int, int] = {}
        for move in moves:
            if move > 0:
                taken[move] = memory.allocate(sizes[move])
            else:
                memory.release(taken.pop(-move))
        for start in taken.values():
            memory.release(start)
    return memory.peak - others
