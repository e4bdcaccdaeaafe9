"""The allocator on paper: invariants for any use of it, and the real one side by side."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from keras_dynhp.memory.allocator import FIRST_REGION, BestFit

MB = 2**20


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40 * MB)), max_size=60), st.randoms())
@settings(max_examples=100, deadline=None)
def test_blocks_never_overlap_and_all_come_back(uses, random):
    memory = BestFit()
    held = {}
    for give, size in uses:
        if give or not held:
            start = memory.allocate(size)
            assert all(start + size <= s or s + n <= start for s, n in held.items())
            held[start] = size
        else:
            start = random.choice(sorted(held))
            memory.release(start)
            del held[start]
        asked = sum(-(-n // 256) * 256 for n in held.values())
        assert asked <= memory.in_use < 2 * asked or memory.in_use == asked == 0
    for start in held:
        memory.release(start)
    assert memory.in_use == 0


def test_a_block_is_split_only_at_twice_the_request():
    memory = BestFit()
    first = memory.allocate(FIRST_REGION // 2 + 256)
    assert memory.in_use == FIRST_REGION
    memory.release(first)
    memory.allocate(FIRST_REGION // 2)
    assert memory.in_use == FIRST_REGION // 2


def test_freed_neighbours_become_one_block_again():
    memory = BestFit()
    parts = [memory.allocate(FIRST_REGION // 4) for _ in range(4)]
    for part in (parts[1], parts[3], parts[2], parts[0]):
        memory.release(part)
    assert memory.allocate(FIRST_REGION) == parts[0]


REAL = """
import json, sys
import tensorflow as tf
info = lambda: tf.config.experimental.get_memory_info("CPU:0")["current"]
held, seen, before = {}, [], info()
for name, size in json.loads(sys.argv[1]):
    if size:
        held[name] = tf.raw_ops.Empty(shape=[size], dtype=tf.uint8)
    else:
        del held[name]
    seen.append(info() - before)
print(json.dumps(seen))
"""


def test_counts_as_tensorflow_does(run_alone):
    moves = [("a", 5 * MB), ("b", 3 * MB), ("c", 20 * MB), ("a", 0), ("d", 6 * MB), ("c", 0)]
    moves += [("e", 11 * MB), ("f", 19 * MB), ("b", 0), ("g", 9 * MB), ("e", 0), ("h", 30 * MB)]
    real = json.loads(run_alone(REAL, json.dumps(moves), TF_CPU_ALLOCATOR_USE_BFC="1"))

    memory = BestFit()
    memory.allocate(256)
    before, held, paper = memory.in_use, {}, []
    for name, size in moves:
        if size:
            held[name] = memory.allocate(size)
        else:
            memory.release(held.pop(name))
        paper.append(memory.in_use - before)
    # The real one also holds the shapes of the requests, a few hundred bytes.
    assert [round(n / MB, 2) for n in paper] == [round(n / MB, 2) for n in real]
