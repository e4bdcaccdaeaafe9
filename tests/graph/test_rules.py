"""register_rule, rules that lie, layers without a rule."""

from __future__ import annotations

import keras
import pytest
from keras import layers as L

import keras_dynhp as dynhp
from benchmarks.exactness import check
from keras_dynhp.graph import registry


@pytest.fixture(autouse=True)
def restore_rules():
    before = dict(registry._LAYER_RULES)
    yield
    registry._LAYER_RULES.clear()
    registry._LAYER_RULES.update(before)


class Twice(L.Dense):
    """A Dense with another call, so Dense's rule may not hold for it."""

    def call(self, inputs):
        return 2.0 * super().call(inputs)


def model_with(layer):
    return keras.Sequential([keras.Input((6,)), L.Dense(5, name="first"), layer, L.Dense(2)])


def test_an_unknown_layer_is_a_barrier_with_its_name():
    class Unknown(L.Layer):
        def call(self, inputs):
            return inputs * 2.0

    found = check_barrier(model_with(Unknown(name="mystery")))
    assert "no rule for Unknown" in found.barriers["mystery"]
    (kept,) = [group for group in found.kept if group.name == "first"]
    assert "mystery" in kept.reason


def test_a_barrier_made_of_layers_says_how_they_are_reached():
    class Block(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner, self.last = L.Dense(4, "relu"), L.Dense(5)

        def call(self, x):
            return x + self.last(self.inner(x))

    found = check_barrier(model_with(Block(name="block")))
    assert "write its call() as a graph with to_functional" in found.barriers["block"]
    found = check(dynhp.to_functional(model_with(Block())))
    assert found.error <= 1e-6 and not found.groups.barriers
    assert [group.size for group in found.groups] == [5, 4]


def check_barrier(model):
    groups = dynhp.find_groups(model)
    assert all("first" not in group.layers for group in groups)
    return groups


def test_a_layer_with_its_own_call_is_not_its_base():
    groups = check_barrier(model_with(Twice(4, name="twice")))
    assert "Twice is a Dense with its own call()" in groups.barriers["twice"]


def test_a_subclassed_model_inside_is_a_barrier():
    class Own(keras.Model):
        def call(self, inputs):
            return inputs * 2.0

    groups = check_barrier(model_with(Own(name="own")))
    assert "subclassed model" in groups.barriers["own"]


def test_a_taught_layer_is_pruned():
    @dynhp.register_rule(Twice)
    def twice(call):
        features = call.read(0)
        neurons = call.produce(call.layer.units)
        call.label(call.layer.kernel, (features, "in"), (neurons, "out"))
        call.label(call.layer.bias, (neurons, "out"))
        call.resize("units", neurons)
        return call.along(neurons)

    found = check(model_with(Twice(4, name="twice")))
    assert {group.name for group in found.groups} == {"first", "twice"}
    assert found.error <= 1e-5


def lie_about_output(call):
    return call.along(call.produce(3))


def lie_about_rank(call):
    return call.inputs[0][0]


def lie_about_a_variable(call):
    call.label(call.layer.kernel, (call.read(0), "in"), (call.produce(3), "out"))
    return call.inputs[0]


def lie_about_axes(call):
    call.label(call.layer.kernel, call.read(0))
    return call.inputs[0]


def lie_about_the_number_of_outputs(call):
    return [call.inputs[0], call.inputs[0]]


def lie_about_a_role(call):
    call.label(call.layer.kernel, (call.read(0), "reads"), (call.produce(4), "out"))
    return call.inputs[0]


def return_nothing(call):
    call.read(0)


def return_a_word(call):
    return "neurons"


def read_an_input_that_is_not_there(call):
    return call.along(call.read(1))


def couple_what_does_not_match(call):
    call.couple(call.read(0), call.produce(3))
    return call.inputs[0]


@pytest.mark.parametrize(
    "rule",
    [
        lie_about_a_role,
        return_nothing,
        return_a_word,
        read_an_input_that_is_not_there,
        couple_what_does_not_match,
        lie_about_output,
        lie_about_rank,
        lie_about_a_variable,
        lie_about_axes,
        lie_about_the_number_of_outputs,
    ],
)
def test_a_lying_rule_raises_with_the_layers_name(rule):
    dynhp.register_rule(Twice, rule)
    with pytest.raises(ValueError, match="'liar'"):
        dynhp.find_groups(model_with(Twice(4, name="liar")))


def test_a_rule_that_forgets_to_resize_raises_when_rebuilding():
    @dynhp.register_rule(Twice)
    def forgetful(call):
        neurons = call.produce(call.layer.units)
        call.label(call.layer.kernel, (call.read(0), "in"), (neurons, "out"))
        call.label(call.layer.bias, (neurons, "out"))
        return call.along(neurons)

    masked = dynhp.add_masks(model_with(Twice(4, name="liar")))
    masked.get_layer("mask_liar").mask.assign([1, 0, 1, 0])
    with pytest.raises(ValueError, match="'liar'"):
        dynhp.rebuild(masked)


def test_a_rule_that_resizes_what_is_not_there_raises_when_rebuilding():
    @dynhp.register_rule(Twice)
    def wrong_key(call):
        neurons = call.produce(call.layer.units)
        call.label(call.layer.kernel, (call.read(0), "in"), (neurons, "out"))
        call.label(call.layer.bias, (neurons, "out"))
        call.resize("filters", neurons)
        return call.along(neurons)

    with pytest.raises(ValueError, match=r"'liar' .* can't be made anew"):
        dynhp.add_masks(model_with(Twice(4, name="liar")))


@pytest.mark.parametrize("what", [int, "Dense", L.Dense(3), None])
def test_rules_are_for_classes_of_layers(what):
    with pytest.raises(TypeError, match=r"must be a subclass of keras.layers.Layer"):
        dynhp.register_rule(what, lambda call: call.inputs[0])


def test_rules_are_functions():
    with pytest.raises(TypeError, match="must be a function of one Call"):
        dynhp.register_rule(Twice, 3)


def test_lambdas_are_barriers():
    groups = check_barrier(model_with(L.Lambda(lambda x: x, name="any")))
    assert "Lambda" in groups.barriers["any"]


def test_a_softmax_at_the_end_is_no_barrier():
    """Its neurons are the model's outputs anyway; only what stops pruning is told."""
    groups = dynhp.find_groups(
        keras.Sequential([keras.Input((6,)), L.Dense(5), L.Dense(3, name="end"), L.Softmax()])
    )
    assert groups.barriers == {}
    (kept,) = groups.kept
    assert kept.name == "end" and "an output of the model" in kept.reason


def test_a_softmax_inside_is_one():
    groups = check_barrier(model_with(L.Softmax(name="gate")))
    assert "mixes channels" in groups.barriers["gate"]


def test_a_softmax_that_gates_another_tensor_is_one():
    inputs = keras.Input((6,))
    gate = L.Softmax(name="gate")(L.Dense(4, name="first")(inputs))
    groups = dynhp.find_groups(keras.Model(inputs, L.Multiply()([gate, L.Dense(4)(inputs)])))
    assert "gate" in groups.barriers
