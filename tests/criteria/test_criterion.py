"""What neurons are worth."""

import keras
import numpy as np
import pytest

import keras_dynhp as dynhp
from keras_dynhp import criteria

layers = keras.layers


def model():
    return keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(3, name="a"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(2, name="b"),
            layers.Dense(1, name="out"),
        ]
    )


def test_magnitude_by_hand():
    network = model()
    network.get_layer("a").kernel.assign([[3.0, 0.0, 1.0], [4.0, 1.0, 0.0]])
    scores = criteria.get("magnitude").scores(dynhp.find_groups(network))
    np.testing.assert_allclose(scores["a"], np.array([25.0, 1.0, 1.0]) / 27.0)


def test_magnitude_of_dead_neurons_is_nothing():
    network = model()
    network.get_layer("a").kernel.assign([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    groups = dynhp.find_groups(network)
    np.testing.assert_allclose(criteria.get("magnitude").scores(groups)["a"], [0.0, 0.0, 1.0])
    network.get_layer("a").kernel.assign(np.zeros((2, 3)))
    np.testing.assert_array_equal(criteria.get("magnitude").scores(groups)["a"], np.zeros(3))


def test_magnitude_of_inputs_is_that_of_what_reads_them():
    network = model()
    network.get_layer("a").kernel.assign([[3.0, 0.0, 4.0], [1.0, 0.0, 0.0]])
    groups = dynhp.find_groups(network, prune_inputs=True)
    inputs = next(group for group in groups if group.size == 2 and "b" not in group.layers)
    np.testing.assert_allclose(
        criteria.get("magnitude").scores(groups)[inputs.name], np.array([25.0, 1.0]) / 26.0
    )


def test_taylor_is_what_the_gates_say():
    groups = dynhp.find_groups(model())
    gates = {group.name: np.arange(group.size, dtype=float) for group in groups}
    scores = criteria.get("taylor").scores(groups, gates)
    np.testing.assert_array_equal(scores["a"], [0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="needs gradients"):
        criteria.get("taylor").scores(groups)


def test_scores_are_checked():
    class Bad(dynhp.Criterion):
        def __init__(self, value):
            self.value = value

        def score(self, group, gates):
            return self.value

    groups = dynhp.find_groups(model())
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        Bad(np.ones(4)).scores(groups)
    with pytest.raises(ValueError, match="not finite"):
        Bad(np.array([1.0, np.nan, 1.0])).scores(groups)


@pytest.mark.parametrize("name", ["taylor", "magnitude", "random"])
def test_names_and_configurations(name):
    criterion = criteria.get(name)
    again = criteria.get(keras.saving.serialize_keras_object(criterion))
    assert type(again) is type(criterion) and again.get_config() == criterion.get_config()
    assert criteria.get(criterion) is criterion


def test_what_is_no_criterion_is_refused():
    with pytest.raises(ValueError, match="Unknown criterion"):
        criteria.get("tailor")
    with pytest.raises(TypeError, match="Criterion"):
        criteria.get(3)


@pytest.mark.parametrize("given", [{"a": 1}, None, criteria.criterion.Taylor])
def test_what_is_no_criterion(given):
    with pytest.raises(
        TypeError, match=r"must be a name \(taylor, magnitude, random\), a Criterion"
    ):
        criteria.get(given)
