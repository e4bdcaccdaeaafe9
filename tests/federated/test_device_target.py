"""A target in bytes: the server holds its network against the real file and the real arena."""

import random

import keras
import pytest

import keras_dynhp as dynhp
from keras_dynhp.errors import TargetError
from keras_dynhp.federated import DynHPStrategy
from keras_dynhp.pruning import goals

LIMIT, RAM = 2400, 3000  # bytes; the file of the whole network has 3,712


def build_model():
    random.seed(0)
    layers = [keras.layers.Dense(48, "relu"), keras.layers.Dense(48, "relu")]
    model = keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(3)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def strategy_and_grid(federation, **options):
    nodes = [federation.Node(seed, build=build_model) for seed in (1, 2)]
    target = dynhp.Target(flash=LIMIT, ram=RAM)
    return DynHPStrategy(build_model(), target, 3, **options), federation.LocalGrid(nodes)


@pytest.mark.sweep("too low")
@pytest.mark.parametrize("safety", [goals.SAFETY["flash"], 1.25], ids=["as it is", "too low"])
def test_the_real_file_is_small_enough(federation, safety, monkeypatch, tmp_path):
    # "too low": as if the estimate promised less than the device needs.
    monkeypatch.setitem(goals.SAFETY, "flash", safety)
    strategy, grid = strategy_and_grid(federation)
    result = strategy.start(grid)
    assert 0.85 * LIMIT < strategy.device["flash_bytes"] <= LIMIT
    assert strategy.device["ram_bytes"] <= RAM
    # What was sent back, what is told and what a user exports are that network.
    entry = strategy.history[-1]
    assert entry["params"] == strategy.model.count_params()
    assert [a.shape for a in result.arrays.values()] == [
        w.shape for w in strategy.model.get_weights()
    ]
    x, _ = grid.nodes[1].client.data
    with pytest.warns(UserWarning, match="has 64 samples"):
        report = dynhp.export_tflite(strategy.model, str(tmp_path / "m.tflite"), "int8", x)
    assert report.flash_bytes <= LIMIT


def test_a_run_that_misses_says_by_how_much(federation, tmp_path):
    options = {"schedule": lambda progress: 0.3 * progress, "state": tmp_path / "state.npz"}
    strategy, grid = strategy_and_grid(federation, **options)
    with pytest.raises(TargetError, match=rf"flash is [\d,]+ bytes where {LIMIT:,} are allowed"):
        strategy.start(grid)
    assert len(strategy.history) == 3
    # What there is stays.
    again = DynHPStrategy(build_model(), strategy.target, 3, **options)
    assert again.model.count_params() == strategy.model.count_params()


def test_what_could_not_be_proven_is_refused_before_the_first_round(federation):
    inputs = keras.Input((None, 8))
    x = keras.layers.Dense(16, activation="relu")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    node = federation.Node(1)
    with pytest.raises(ValueError, match="shape"):
        DynHPStrategy(model, dynhp.Target(flash=10**6), 1).start(federation.LocalGrid([node]))
    assert node.calls == []
