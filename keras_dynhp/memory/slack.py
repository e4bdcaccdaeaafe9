"""What the allocator counts beyond what a step asks for."""

from __future__ import annotations

import random

from keras_dynhp.memory.allocator import BestFit
from keras_dynhp.memory.executor import Schedule

_LAYOUTS = 12
_STEPS = 2
# An epoch has many steps, each in its own order: so many are replayed to meet the unlucky one.
_MANY_STEPS = 6
_NEGLIGIBLE = 1 / 500


def counted(schedules: list[Schedule], resident: list[int], batch: int, asked: int) -> int:
    """Bytes that the allocator counts at the worst moment of a step.

    Where a tensor lands depends on what was there before and on which kernels happen to overlap,
    so steps are replayed from several starting layouts (always the same ones). Of steps that all
    have one order, the second highest of the replays is taken.

    Args:
        schedules: orders of the kernels to replay.
        resident: bytes of each variable.
        batch: the batch size.
        asked: the most that the step asks for at once.
    """
    draw = random.Random(0)
    replays = _without_negligible(schedules, batch, asked)
    peaks = [_replay([replays[i % len(replays)]] * _STEPS, resident, draw) for i in range(_LAYOUTS)]
    return sorted(peaks)[-2]


def counted_at_worst(schedules: list[Schedule], resident: list[int], batch: int, asked: int) -> int:
    """The same for the unluckiest step, where orders change from step to step.

    What one order leaves free another one needs in one piece: with TensorFlow's own kernels
    LeNet-5 at a batch of 32 counts 43 MB in most steps, and 60 MB in some.
    """
    draw = random.Random(0)
    replays = _without_negligible(schedules, batch, asked)
    return max(
        _replay(draw.choices(replays, k=_MANY_STEPS), resident, draw) for _ in range(_LAYOUTS)
    )


_Replay = tuple[list[int], list[int]]


def _without_negligible(schedules: list[Schedule], batch: int, asked: int) -> list[_Replay]:
    return [_moves(schedule, batch, asked * _NEGLIGIBLE) for schedule in schedules]


def _moves(schedule: Schedule, batch: int, least: float) -> _Replay:
    """The sizes of a schedule's places, and its moves without those of negligible places."""
    sizes = [0, *(size(batch) for size in schedule.places)]
    return sizes, [move for move in schedule.moves if sizes[abs(move)] >= least]


def _replay(steps: list[_Replay], resident: list[int], draw: random.Random) -> int:
    memory = BestFit()
    before = [memory.allocate(int(10 ** draw.uniform(3, 6))) for _ in range(draw.randint(0, 6))]
    for start in before[::2]:
        memory.release(start)
    others = memory.in_use
    for size in resident:
        memory.allocate(size)
    for sizes, moves in steps:
        taken: dict[int, int] = {}
        for move in moves:
            if move > 0:
                taken[move] = memory.allocate(sizes[move])
            else:
                memory.release(taken.pop(-move))
        for start in taken.values():
            memory.release(start)
    return memory.peak - others
