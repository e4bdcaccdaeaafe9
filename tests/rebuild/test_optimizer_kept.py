"""What is no slot of a variable, and must stay as it is through the surgery."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import optimizers

from keras_dynhp.keras_state.optimizer import hook_update_step, variable_key
from keras_dynhp.rebuild.optimizer import plan_optimizer
from keras_dynhp.rebuild.transfer import Transfer

KEPT = np.array([0, 2])

MUON_WORKS = not keras.__version__.startswith("3.12.")


def ones(*shape):
    return keras.Variable(np.ones(shape, "float32"), name="kernel" if len(shape) > 1 else "bias")


def network():
    return [ones(4, 3), ones(3)]


def step(optimizer, variables, gradient: float = 0.5):
    optimizer.apply([keras.ops.full(v.shape, gradient) for v in variables], variables)


def cut(optimizer, variables):
    new = [ones(4, 2), ones(2)]
    keeps = [{1: KEPT}, {0: KEPT}]
    transfers = [Transfer(a, b, keep) for a, b, keep in zip(variables, new, keeps)]
    for transfer in transfers:
        transfer.new.assign(transfer.take(transfer.old.numpy()))
    plan_optimizer(optimizer, transfers).commit()
    return new


def test_iterations_and_learning_rate_stay_the_same_objects():
    optimizer, variables = optimizers.Adam(0.5), network()
    step(optimizer, variables)
    optimizer.learning_rate = 0.125
    iterations, learning_rate = optimizer.iterations, optimizer.learning_rate
    cut(optimizer, variables)
    assert optimizer.iterations is iterations and int(iterations) == 1
    assert optimizer.learning_rate is learning_rate and float(learning_rate) == 0.125
    assert optimizer.variables[:2] == [iterations, learning_rate]


def test_a_schedule_goes_on_where_it_was():
    schedule = optimizers.schedules.PiecewiseConstantDecay([1, 2], [1.0, 0.5, 0.25])
    optimizer, variables = optimizers.SGD(schedule), network()
    step(optimizer, variables)
    step(optimizer, variables)
    variables = cut(optimizer, variables)
    assert optimizer._learning_rate is schedule and float(optimizer.learning_rate) == 0.5
    step(optimizer, variables)
    assert float(optimizer.learning_rate) == 0.25


def test_the_loss_scale_is_kept():
    optimizer = optimizers.LossScaleOptimizer(
        optimizers.Adam(), initial_scale=8.0, dynamic_growth_steps=2
    )
    variables = network()
    for _ in range(3):
        step(optimizer, variables)
    cut(optimizer, variables)
    assert float(optimizer.dynamic_scale) == 16.0  # doubled after two of three steps
    assert int(optimizer.step_counter) == 1
    assert int(optimizer.iterations) == 3


def test_averages_overwrite_with_what_they_were():
    optimizer, variables = optimizers.SGD(1.0, use_ema=True, ema_momentum=0.5), network()
    step(optimizer, variables)  # 1 - 0.5; the first average is the value
    step(optimizer, variables)  # 0; average 0.25
    variables = cut(optimizer, variables)
    assert np.all(variables[0].numpy() == 0.0)
    optimizer.finalize_variable_values(variables)
    assert all(np.all(variable.numpy() == 0.25) for variable in variables)


@pytest.mark.parametrize("when", ["before the optimizer is built", "before a step", "after one"])
@pytest.mark.parametrize("by", ["object", "name"])
@pytest.mark.parametrize("optimizer_class", [optimizers.SGD, *([optimizers.Muon] * MUON_WORKS)])
def test_exclusions_from_weight_decay_follow(optimizer_class, by, when):
    optimizer, variables = optimizer_class(0.5, weight_decay=0.5), network()
    if optimizer_class is optimizers.Muon:
        optimizer.adam_weight_decay = 0.5
    if by == "object":
        optimizer.exclude_from_weight_decay(var_list=[variables[0]])
    else:
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    decayed = 1 if by == "object" else 0
    if when != "before the optimizer is built":
        optimizer.build(variables)
    if when == "after one":
        step(optimizer, variables, gradient=0.0)
        assert np.all(variables[decayed].numpy() == 0.75)
    variables = cut(optimizer, variables)
    before = [variable.numpy() for variable in variables]
    step(optimizer, variables, gradient=0.0)
    np.testing.assert_allclose(variables[decayed].numpy(), 0.75 * before[decayed], rtol=1e-6)
    np.testing.assert_array_equal(variables[1 - decayed].numpy(), before[1 - decayed])


@pytest.mark.skipif(not MUON_WORKS, reason="this Keras's Muon takes no step with TensorFlow")
def test_muon_goes_on_with_the_same_method_for_each_variable():
    optimizer, variables = optimizers.Muon(0.1, exclude_layers=["kernel"]), network()
    step(optimizer, variables)
    velocities = [velocity.numpy() for velocity in optimizer.adam_velocities]
    cut(optimizer, variables)
    np.testing.assert_array_equal(optimizer.adam_velocities[0].numpy(), velocities[0][:, KEPT])
    np.testing.assert_array_equal(optimizer.adam_velocities[1].numpy(), velocities[1][KEPT])


def test_a_hook_goes_on_with_the_new_variables():
    optimizer, variables = optimizers.LossScaleOptimizer(optimizers.Adam()), network()
    seen = []
    unhook = hook_update_step(optimizer, lambda g, v: seen.append(variable_key(optimizer, v)))
    step(optimizer, variables)
    variables = cut(optimizer, variables)
    seen.clear()
    step(optimizer, variables)
    assert seen == [variable_key(optimizer, variable) for variable in variables]
    unhook()
    step(optimizer, variables)
    assert len(seen) == 2


def test_transfers_may_come_in_any_order_and_keep_neurons_in_any_order():
    a, b = ones(3), ones(2, 2)
    optimizer = optimizers.SGD(1.0, momentum=0.5)
    optimizer.apply([keras.ops.array([1.0, 2, 3]), keras.ops.array([[4.0, 5], [6, 7]])], [a, b])
    new_a, new_b = ones(2), ones(2, 1)
    transfers = [
        Transfer(b, new_b, {1: np.array([1])}),
        Transfer(a, new_a, {0: np.array([2, 0])}),
    ]
    plan_optimizer(optimizer, transfers).commit()
    assert [slot.numpy().tolist() for slot in optimizer.momentums] == [[-3, -1], [[-5], [-7]]]
    optimizer.apply([keras.ops.zeros(2), keras.ops.zeros((2, 1))], [new_a, new_b])
    np.testing.assert_array_equal(new_a.numpy(), [1 - 1.5, 1 - 0.5])
