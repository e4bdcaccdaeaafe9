"""With XLA on a CPU what a step needs follows no rule; a budget is kept all the same, and told."""

import json

import keras
import pytest

from keras_dynhp.memory.budget import MARGIN, Budget
from keras_dynhp.memory.estimate import MemoryEstimate, StepMemory
from keras_dynhp.memory.machine import Machine

PROGRAM = """
import json, warnings
import keras, numpy as np
from keras import layers as L
import keras_dynhp as dynhp

model = keras.Sequential([
    keras.Input((28, 28, 1)), L.Conv2D(20, 5, activation="relu"), L.MaxPooling2D(),
    L.Conv2D(50, 5, activation="relu"), L.MaxPooling2D(), L.Flatten(),
    L.Dense(100, activation="relu"), L.Dense(10),
])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile("adam", loss, jit_compile=True)
x = np.random.default_rng(0).normal(size=(512, 28, 28, 1)).astype("float32")
hp = dynhp.DynHP(budget="12MB", target=dynhp.Target(compression=4))
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    logs = model.fit(x, np.arange(512) % 10, batch_size=64, epochs=5, verbose=0, callbacks=[hp])
told = [str(warning.message) for warning in told]
print(json.dumps({**logs.history, "notes": hp.report.notes, "told": told}))
"""


@pytest.mark.slow
def test_a_budget_is_kept_with_xla(run_alone):
    told = json.loads(run_alone(PROGRAM, TF_CPU_ALLOCATOR_USE_BFC="1").splitlines()[-1])
    assert max(told["train_memory"]) <= 12 * 2**20
    assert told["batch_size"][0] < told["batch_size"][-1]
    assert any("can't be foreseen" in note and "12.0 MB" in note for note in told["notes"])
    assert any("jit_compile=False" in message for message in told["told"])


@pytest.mark.parametrize("gpu", [True, False])
def test_only_xla_on_a_cpu_is_unforeseen(gpu):
    def step(jit_compile):
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        model.compile("sgd", "mse", jit_compile=jit_compile)
        return StepMemory(model, machine=Machine(gpu=gpu))

    plain, compiled = step(False), step(True)
    assert plain.is_foreseen and compiled.is_foreseen == gpu
    more = compiled.at(100).total - plain.at(100).total
    assert more == (0 if gpu else int(8.5 * plain.at(100).activations))


def test_less_than_an_estimate_is_not_believed():
    budget = Budget("1MB")
    estimate = MemoryEstimate(100_000, 100_000, 0, 100_000, 10_000, 0)
    budget.observe(estimate, estimate.total // 3)
    believed = budget.predict(estimate)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    model.compile("sgd", "mse", jit_compile=True)
    budget.largest_of(StepMemory(model, machine=Machine()))
    assert budget.predict(estimate) > 1.5 * believed
    assert budget.predict(estimate) >= MARGIN * estimate.total
    budget.observe(estimate, 2 * estimate.total)
    assert budget.predict(estimate) >= 2 * MARGIN * estimate.total
