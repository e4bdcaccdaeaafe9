"""Steps of a few kernels, run by hand."""

from keras_dynhp.memory.executor import Program, worst
from keras_dynhp.memory.tape import Kernel, Size, Tensor


def tensors(*sizes):
    return [Tensor(Size(size)) for size in sizes]


def peak(kernels, resident=(), fed=(), threads=1, batch=1):
    schedule = Program(kernels, list(resident), list(fed)).schedule(threads, batch)
    return max(moment.at(batch) for moment in schedule.moments)


def test_a_chain_holds_two_neighbours_at_a_time():
    a, b, c, d = tensors(10, 20, 30, 5)
    chain = [Kernel("1", [a], [b]), Kernel("2", [b], [c]), Kernel("3", [c], [d])]
    assert peak(chain, fed=[a]) == 50


def test_what_is_read_later_is_kept():
    a, b, c, d = tensors(10, 20, 30, 5)
    kernels = [Kernel("1", [a], [b]), Kernel("2", [b], [c]), Kernel("3", [c, a], [d])]
    assert peak(kernels, fed=[a]) == 60


def test_in_place_takes_no_room_unless_someone_else_reads():
    a, b, c = tensors(10, 10, 10)
    kernels = [Kernel("1", [a], [b], in_place=True)]
    assert peak(kernels, fed=[a]) == 10
    assert peak([*kernels, Kernel("2", [a, b], [c])], fed=[a]) == 30


def test_a_variable_is_never_written_over_in_place():
    w, y = tensors(10, 10)
    assert peak([Kernel("1", [w], [y], in_place=True)], resident=[w]) == 20


def test_scratch_of_kernels_that_run_together_adds_up():
    x, y, z = tensors(0, 1, 1)
    x.size = Size(1)
    kernels = [
        Kernel("1", [x], [y], scratch=lambda batch: 100),
        Kernel("2", [x], [z], scratch=lambda batch: 70),
    ]
    assert peak(kernels, fed=[x], threads=1) == 102
    assert peak(kernels, fed=[x], threads=2) == 173


def test_updating_a_variable_that_is_still_read_copies_it():
    w, g, slow = tensors(1000, 1, 1)
    slow_reader = Kernel("slow", [w, g], [slow], work=Size(10**9))
    update = Kernel("update", [g], [], updates=w)
    assert peak([update, slow_reader], resident=[w], fed=[g], threads=2) == 2002
    assert peak([slow_reader, update], resident=[w], fed=[g], threads=1) == 1002


def test_every_place_taken_is_given_back_once():
    a, b, c, d = tensors(10, 20, 30, 5)
    kernels = [
        Kernel("1", [a], [b], scratch=lambda batch: 7),
        Kernel("2", [b], [c], in_place=True),
        Kernel("3", [c], [d]),
    ]
    schedule = Program(kernels, [], [a]).schedule(2, 1)
    taken = sorted(move for move in schedule.moves if move > 0)
    assert taken == sorted(-move for move in schedule.moves if move < 0)
    assert taken == list(range(1, len(schedule.places) + 1))


def test_worst_moments_are_worst_at_every_batch():
    tensor = Tensor(Size(50, 1))
    other = Tensor(Size(3, 9))
    kernels = [Kernel("1", [], [tensor]), Kernel("2", [tensor], [other])]
    moments = Program(kernels, [], []).schedule(1, 1).moments
    for batch in (1, 3, 5, 100):
        most = max(moment.at(batch) for moment in moments)
        assert max(moment.at(batch) for moment in worst(moments)) == most
