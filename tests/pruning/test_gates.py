"""Gate gradients, against the derivative by a gate that is really there."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dynhp as dynhp
from keras_dynhp.keras_state.optimizer import hook_update_step, variable_key
from keras_dynhp.pruning.gates import GateMeter

layers = keras.layers
RANDOM = np.random.default_rng(0)


def dense():
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(5, "tanh", name="a"),
            layers.Dense(3, "relu", name="b"),
            layers.Dense(2, name="out"),
        ]
    )


def convolutional():
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(4, 3, activation="relu", name="a"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(3, "tanh", name="b"),
            layers.Dense(2, name="out"),
        ]
    )


def read_twice():
    inputs = keras.Input((4,))
    hidden = layers.Dense(5, "tanh", name="a")(inputs)
    one, other = layers.Dense(3, name="b")(hidden), layers.Dense(3, name="c")(hidden)
    return keras.Model(inputs, layers.Dense(2, name="out")(layers.Add()([one, other])))


def gated(model, masked, x, y):
    """The gradients by the masks of an `add_masks` model, all ones."""
    masks = [layer for layer in masked.layers if isinstance(layer, dynhp.NeuronMask)]
    with tf.GradientTape() as tape:
        tape.watch([layer.mask.value for layer in masks])
        loss = keras.ops.mean(keras.ops.square(masked(x) - y))
    return tape.gradient(loss, [layer.mask.value for layer in masks])


@pytest.mark.parametrize("make", [dense, convolutional, read_twice])
def test_gate_gradients_are_those_of_gates(make):
    model = make()
    x = RANDOM.normal(size=(3, 8, *model.input_shape[1:])).astype("float32")
    y = RANDOM.normal(size=(3, 8, 2)).astype("float32")
    model.compile(keras.optimizers.SGD(0.05), "mse")
    model.optimizer.build(model.trainable_variables)
    groups = dynhp.find_groups(model)
    meter = GateMeter(groups, model.optimizer, momentum=0.9)
    hook_update_step(
        model.optimizer,
        before=lambda g, v: meter.read(variable_key(model.optimizer, v), g, v),
    )
    squares = []
    for step in range(3):
        masked = dynhp.add_masks(model)
        squares.append([np.square(g) for g in gated(model, masked, x[step], y[step])])
        model.train_on_batch(x[step], y[step])
    # The mean of the first steps; the momentum rules when there have been enough.
    expected = [np.mean(column, axis=0) for column in zip(*squares)]
    means = meter.means()
    assert meter.steps == 3
    by_size = sorted(expected, key=lambda e: e.tolist())
    for found, wanted in zip(sorted(means.values(), key=lambda e: e.tolist()), by_size):
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=1e-9)


def test_momentum_rules_after_enough_steps():
    model = dense()
    model.compile("sgd", "mse")
    model.optimizer.build(model.trainable_variables)
    groups = dynhp.find_groups(model)
    past = {group.name: np.full(group.size, 2.0) for group in groups}
    meter = GateMeter(groups, model.optimizer, momentum=0.75, start=past, steps=100)
    kernel = model.get_layer("out").kernel
    kernel.assign(np.ones(kernel.shape))
    gradient = tf.constant([[1.0, 0.0], [2.0, 1.0], [0.0, 0.0]])
    meter.read(variable_key(model.optimizer, kernel), gradient, kernel.value)
    means = meter.means()
    np.testing.assert_allclose(means["b"], 0.75 * 2 + 0.25 * np.square([1.0, 3.0, 0.0]))
    np.testing.assert_allclose(means["a"], 0.75 * 2)
    assert meter.steps == 101
    np.testing.assert_array_equal(meter.means()["b"], means["b"])  # asking changes nothing
    assert meter.steps == 101
