"""The facts about slots: each fails loudly when a new Keras keeps them otherwise."""

from __future__ import annotations

import inspect

import keras
import numpy as np
import pytest
from keras import optimizers

from keras_dynhp.keras_state.optimizer import optimizer_tree, variable_key
from keras_dynhp.keras_state.optimizer_slots import build_anew, find_slots, keep_name


def two_variables():
    return [
        keras.Variable(np.ones((3, 2), "float32"), name="kernel"),
        keras.Variable(np.ones(2, "float32"), name="bias"),
    ]


WRAPPED = {
    "LossScaleOptimizer": lambda: optimizers.LossScaleOptimizer(optimizers.Adam()),
    "MultiOptimizer": lambda: optimizers.MultiOptimizer(
        optimizers.OptimizerMap(optimizers.SGD(momentum=0.5), {"kernel": optimizers.Adam()})
    ),
}
MAKERS = {
    name: WRAPPED.get(name, thing)
    for name, thing in vars(optimizers).items()
    if inspect.isclass(thing) and name not in {"Optimizer", "OptimizerMap"}
}

every_optimizer = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def bookkeeping(optimizer):
    return {id(v) for node in optimizer_tree(optimizer) for v in node._variables[:2]}


@every_optimizer
def test_every_variable_is_found_once_and_belongs_where_its_name_says(make):
    optimizer, variables = make(), two_variables()
    optimizer.build(variables)
    slots = [slot for node in optimizer_tree(optimizer) for slot in find_slots(node)]
    found = [id(slot.variable) for slot in slots]
    assert len(found) == len(set(found))
    assert set(found) | bookkeeping(optimizer) == {id(v) for v in optimizer.variables}
    for slot in slots:
        if slot.variable.shape.rank:
            assert slot.of is next(v for v in variables if v.name in slot.variable.name)
            assert variable_key(optimizer, slot.of) in slot.place
            assert slot.of.path in slot.name and slot.attribute in slot.name


@every_optimizer
def test_building_anew_leaves_what_a_fresh_optimizer_has(make):
    optimizer, old, new = make(), two_variables(), two_variables()
    optimizer.build(old)
    kept = bookkeeping(optimizer)
    places = {(id(n), slot.attribute) for n in optimizer_tree(optimizer) for slot in find_slots(n)}
    before = {id(variable): variable for variable in optimizer.variables}
    build_anew(optimizer, list(zip(old, new)))
    fresh = make()
    fresh.build(new)
    assert optimizer.built and bookkeeping(optimizer) == kept
    shapes = [tuple(variable.shape) for variable in optimizer.variables]
    assert shapes == [tuple(variable.shape) for variable in fresh.variables]
    assert {id(v) for v in optimizer.variables} & set(before) == kept
    after = {(id(n), slot.attribute) for n in optimizer_tree(optimizer) for slot in find_slots(n)}
    assert after == places
    for node in optimizer_tree(optimizer):
        keys = [variable_key(node, variable) for variable in node._trainable_variables]
        assert list(node._trainable_variables_indices) == keys
        # What is saved, what Keras tracks and what TensorFlow tracks is one list.
        assert node._tracker.config["variables"][1] is node._variables
        assert node._tracker.stored_ids["variables"] == {id(v) for v in node._variables}
        assert node._trackable_children()["_variables"] is node._variables


def test_a_learning_rate_that_became_a_schedule_is_no_slot():
    optimizer = optimizers.Adam(0.1)
    optimizer.learning_rate = optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    old, new = two_variables(), two_variables()
    optimizer.build(old)
    build_anew(optimizer, list(zip(old, new)))
    assert len(optimizer.variables) == 1 + 4
    assert len(find_slots(optimizer)) == 4


def test_a_slot_keeps_its_name_with_its_variable():
    optimizer, old, new = optimizers.Nadam(), two_variables(), two_variables()
    optimizer.build(old)
    before = find_slots(optimizer)
    names = [(slot.variable.name, slot.variable.path) for slot in before]
    build_anew(optimizer, list(zip(old, new)))
    for slot, its_old in zip(find_slots(optimizer), before, strict=True):
        keep_name(slot, its_old)
    assert [(s.variable.name, s.variable.path) for s in find_slots(optimizer)] == names
    assert any(name.startswith("variable") for name, _ in names), "Nadam's numbered scalar"


@pytest.mark.skipif("MultiOptimizer" not in MAKERS, reason="this Keras has no MultiOptimizer")
def test_a_multi_optimizer_gives_successors_to_the_same_optimizers():
    made = []

    def select(variable):
        made.append(optimizers.SGD(momentum=0.5))
        return made[-1]

    optimizer, old, new = optimizers.MultiOptimizer(select), two_variables(), two_variables()
    optimizer.build(old)
    build_anew(optimizer, list(zip(old, new))[::-1])
    assert len(made) == 2 and list(optimizer.optimizers) == made
    assert optimizer._optimizer_map is select
    for inner, variable in zip(made, new):
        assert [id(v) for v in inner._trainable_variables] == [id(variable)]
    optimizer.apply([keras.ops.ones((3, 2)), keras.ops.ones(2)], new)
    assert all(np.all(variable.numpy() != 1) for variable in new)
