"""Which other models hold the same layers."""

import keras
import pytest
from keras import layers as L

from keras_dynhp.keras_state.sharing import models_beside


@pytest.fixture
def model():
    return keras.Sequential(
        [keras.Input((6,)), L.Dense(5, name="shared"), L.Dense(2)], name="whole"
    )


def test_a_model_by_itself(model):
    assert models_beside(model) == []


def test_part_of_its_graph_as_another_model(model):
    part = keras.Model(model.inputs, model.layers[0].output, name="part")
    assert models_beside(model) == [("part", "shared")]
    assert models_beside(part) == [("whole", "shared")]


def test_a_layer_called_in_another_model(model):
    other = keras.Sequential([keras.Input((6,)), model.layers[0]], name="other")
    assert models_beside(model) == [("other", "shared")]
    assert other.name == "other"


def test_a_model_that_nobody_holds(model):
    keras.Model(model.inputs, model.layers[0].output)
    assert models_beside(model) == []


def test_a_model_whose_constructor_failed(model):
    with pytest.raises(ValueError) as error:
        keras.Sequential([model.layers[0], L.Dense(3)], name="no/name")
    assert models_beside(model) == []
    assert error.traceback  # which holds what there is of it


def test_the_graphs_that_a_sequential_had_before_it_was_changed(model):
    last = model.layers[-1]
    model.pop()
    model.add(L.Dense(3))
    model.build()
    assert models_beside(model) == []
    other = keras.Sequential([keras.Input((5,)), last], name="other")  # its old graph is no model
    assert models_beside(other) == []


def test_models_inside_and_around(model):
    """What is around it calls it as a whole, whatever it is made of."""
    outer = keras.Sequential([keras.Input((6,)), model, L.Dense(3)], name="outer")
    assert models_beside(model) == []
    assert models_beside(outer) == []


def test_a_copy_shares_nothing(model):
    copy = keras.models.clone_model(model)
    assert models_beside(model) == []
    assert copy.name == model.name
