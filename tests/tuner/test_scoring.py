import keras
import keras_tuner
import numpy as np
import pytest

from keras_dynhp import Target
from keras_dynhp.tuner import scoring

from .conftest import build_model

ACCURACY, LOSS = keras_tuner.Objective("acc", "max"), keras_tuner.Objective("loss", "min")


def test_the_last_epoch_counts_and_the_most_memory():
    history = keras.callbacks.History()
    history.history = {"acc": [0.9, 0.8], "train_memory": [70, 30]}
    assert scoring.last_epoch(history, ACCURACY) == {"acc": 0.8, "train_memory": 70.0}
    assert scoring.last_epoch({"acc": np.float32(0.5)}, ACCURACY) == {"acc": 0.5}
    assert scoring.last_epoch(0.25, ACCURACY) == {"acc": 0.25}
    with pytest.raises(TypeError, match="must return"):
        scoring.last_epoch([1, 2], ACCURACY)


def test_excess_is_that_of_the_worst_limit():
    target = Target(params=100, macs=1000)
    assert scoring.excess({"params": 100, "macs": 900}, target) == 0
    assert scoring.excess({"params": 150, "macs": 1200}, target) == pytest.approx(0.5)


def test_every_miss_is_worse_than_every_hit_and_less_so_when_nearer():
    for objective, sign in ((ACCURACY, 1), (LOSS, -1)):
        name = objective.name
        hits = [scored(objective, value, 0.0) for value in (0.001, 0.5, 5.0)]
        misses = [scored(objective, value, missed) for value in (0.1, 0.9) for missed in (0.1, 2)]
        assert min(sign * hit[name] for hit in hits) > max(sign * miss[name] for miss in misses)
        near, far = (scored(objective, 0.5, missed) for missed in (0.1, 2))
        assert sign * near[name] > sign * far[name]
        assert near["measured_" + name] == 0.5 and near["missed"] == 0.1


def test_several_objectives_are_all_penalized():
    both = keras_tuner.oracles.RandomSearchOracle([ACCURACY, LOSS]).objective
    found = scoring.scored({"acc": 0.9, "loss": 0.1}, both, 0.5)
    assert found["acc"] < -100 and found["loss"] > 100


def scored(objective, value, missed):
    return scoring.scored({objective.name: value}, objective, missed)


def test_figures_of_a_stream_are_measured_too():
    found = scoring.figures(build_model(), ["flash"], data=None)
    assert found["params"] == build_model().count_params()
    assert found["params"] < found["flash"] < 10_000
    assert "flash" not in scoring.figures(build_model(), ["params"], data=None)
