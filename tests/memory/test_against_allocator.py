"""The estimate against TensorFlow's allocator: one short `fit` in a process of its own each.

benchmarks/memory_estimate.py has more cases, more runs, and the bounds that are promised; the
ones here leave room for the luck of one short run on a busy machine.
"""

import concurrent.futures
import json

import pytest

from benchmarks.memory_estimate import measured_apart

CASES = [
    (("lenet_300_100", 128, "adam", 60), True),
    (("lenet_5", 32, "adam", 15), False),
    (("pruned_resnet_8", 32, "momentum", 8), True),
    (("conv_1d", 32, "sgd", 8), True),
    (("embedding", 512, "adam", 30), True),
    (("embedding", 2048, "adam", 30), True),
    (("embedding", 2048, "sgd", 30), True),
]


PROGRAM = """
import json, sys
from benchmarks.memory_estimate import measure
print(json.dumps(measure(*json.loads(sys.argv[1]))))
"""


@pytest.fixture(scope="module")
def measurements(run_alone):
    def measured(case, onednn):
        if not onednn:  # which is read when TensorFlow is imported
            return measured_apart(case, onednn)
        printed = run_alone(PROGRAM, json.dumps(case), TF_CPU_ALLOCATOR_USE_BFC="1")
        return json.loads(printed.splitlines()[-1])

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return dict(zip(CASES, pool.map(measured, *zip(*CASES))))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0][0]}-{case[0][1]}-{case[0][2]}")
def test_the_estimate_is_near_the_measured_peak(case, measurements):
    found = measurements[case]
    assert 0.9 < found["estimated"] / found["measured"] < 1.4
    assert sum(found["parts"].values()) == found["estimated"]
