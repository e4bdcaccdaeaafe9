"""Layers made anew hold what the live ones hold; what can't be is said before training."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_dynhp as dynhp

TWO = np.float32(2.0)  # a global variable that functions below read
rng = np.random.default_rng(0)


def doubled(x):
    return ops.relu(x) * TWO


def l2(weights):  # a name that Keras has for something else
    return 1e-3 * ops.sum(ops.square(weights))


def times(factor):
    return lambda x: x * factor


class Scale:
    def __init__(self, factor):
        self.factor = factor

    def by(self, x):
        return x * self.factor


class Cell(L.Layer):
    """A recurrent cell as a user writes it, not registered."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = self.output_size = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units))

    def call(self, x, states):
        return (state := ops.tanh(x @ self.kernel + states[0])), [state]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Sparsity(keras.regularizers.Regularizer):
    """A regularizer as a user writes it, not registered."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, weights):
        return self.factor * ops.sum(ops.abs(weights))

    def get_config(self):
        return {"factor": self.factor}


class Table(L.Layer):
    """Says nothing of what it needs."""

    def __init__(self, table, **kwargs):
        super().__init__(**kwargs)
        self.table = table

    def call(self, x):
        return x * self.table


class Forgetful(L.Layer):
    """Says less than its build() needs."""

    def __init__(self, shifts=0, **kwargs):
        super().__init__(**kwargs)
        self.shifts = shifts

    def build(self, shape):
        for number in range(self.shifts):
            self.add_weight(shape=(shape[-1],), name=f"shift_{number}")

    def call(self, x):
        return x + sum(self.weights)

    def get_config(self):
        return super().get_config()


TEACHER = L.Dense(3, trainable=False)
TEACHER.build((None, 3))


class Student(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.teacher = TEACHER

    def call(self, x):
        return x + self.teacher(x)


def attention(layer):
    inputs = keras.Input((4, 3))
    x = L.Dense(4)(inputs)
    return keras.Model(inputs, L.GlobalAveragePooling1D()(layer(x, x)))


def adapted():
    layer = L.MultiHeadAttention(2, 4, name="attention")
    model = attention(layer)
    layer._query_dense.enable_lora(2, lora_alpha=3)
    layer._value_dense.quantize("int8")
    return model


BEGINNINGS = {
    "lambda": lambda: [L.Lambda(lambda x: x * TWO)],
    "lambda as activation": lambda: [L.Dense(9, activation=lambda x: ops.relu(x) * TWO)],
    "closure": lambda: [L.Dense(9, activation=times(3.0))],
    "method": lambda: [L.Dense(9, activation=Scale(3.0).by)],
    "function": lambda: [L.Dense(9), L.Activation(doubled)],
    "two of one name": lambda: [L.Dense(9, activation=times(2.0)), L.Activation(times(3.0))],
    "function in a wrapper": lambda: [L.TimeDistributed(L.Dense(5, activation=times(3.0)))],
    "regularizer": lambda: [L.Dense(9, kernel_regularizer=Sparsity(1e-3))],
    "cell": lambda: [L.RNN(Cell(5))],
    "cells": lambda: [L.RNN([Cell(5), L.GRUCell(4)])],
    "adapters and int8 in attention": lambda: [adapted()],
}
if not keras.__version__.startswith(("3.12.", "3.13.", "3.14.")):  # where only objects regularize
    BEGINNINGS |= {
        "regularizer of a cell": lambda: [L.LSTM(5, kernel_regularizer=l2)],
        "regularizer of a projection": lambda: [
            attention(L.MultiHeadAttention(2, 4, kernel_regularizer=l2))
        ],
    }


def network(beginning) -> keras.Model:
    ends = [L.Flatten(), L.Dense(14, name="a"), L.Dense(12, name="b"), L.Dense(2)]
    model = keras.Sequential([keras.Input((4, 3)), *beginning, *ends])
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_made_anew_it_computes_the_same(beginning):
    model = network(BEGINNINGS[beginning]())
    x = rng.normal(size=(5, 4, 3)).astype("float32")
    keep = {"a": rng.permutation(14) < 9, "b": rng.permutation(12) < 7}
    masked = dynhp.add_masks(model)
    for name, mask in keep.items():
        masked.get_layer(f"mask_{name}").mask.assign(mask)
    expected = masked(x)
    small = dynhp.rebuild(masked)
    assert small.count_params() < model.count_params()
    np.testing.assert_allclose(small(x), expected, atol=1e-5)
    np.testing.assert_allclose(sum(small.losses), sum(model.losses), rtol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        Table(np.ones((4, 3), "float32"), name="odd"),
        Forgetful(2, name="odd"),
        L.Dense(9, activation=functools.partial(ops.leaky_relu, negative_slope=0.3), name="odd"),
    ],
    ids=["no configuration", "half a configuration", "no function"],
)
def test_what_cannot_be_made_anew_is_said_before_training(layer):
    model = network([layer])
    before = model.get_weights()
    x, y = rng.normal(size=(32, 4, 3)), rng.normal(size=(32, 2))
    with pytest.raises(ValueError, match="'odd'"):
        model.fit(x, y, epochs=2, callbacks=[dynhp.DynHP()], verbose=0)
    assert model.optimizer.iterations == 0
    for one, other in zip(before, model.get_weights()):
        np.testing.assert_array_equal(one, other)
    model.fit(x, y, verbose=0)


def test_what_a_layer_holds_in_common_with_others_is_left_alone():
    """As a layer does that asks a teacher, which is no part of its configuration."""
    weights = [values.copy() for values in TEACHER.get_weights()]
    model = network([Student(name="student")])
    x, y = rng.normal(size=(32, 4, 3)), rng.normal(size=(32, 2))
    hp = dynhp.PruneAndRebuild(dynhp.Target(compression=1.2))
    model.fit(x, y, epochs=3, callbacks=[hp], verbose=0)
    assert hp.on_target
    for value, before in zip(TEACHER.get_weights(), weights):
        np.testing.assert_array_equal(value, before)


def test_looking_whether_it_can_be_made_anew_draws_no_random_number():
    numbers = []
    for callbacks in ([], [dynhp.PruneAndRebuild(schedule=lambda progress: 0.0)]):
        keras.utils.set_random_seed(3)
        model = network([L.Dense(9), L.Dropout(0.5)])
        model.fit(np.ones((8, 4, 3)), np.ones((8, 2)), callbacks=callbacks, verbose=0)
        numbers.append(keras.initializers.RandomNormal()((3,)).numpy())
    np.testing.assert_array_equal(*numbers)


def test_a_layer_made_anew_keeps_a_name_that_its_configuration_does_not_have():
    class Nameless(L.Dense):
        def get_config(self):
            return {"units": self.units}

    model = keras.Sequential([keras.Input((4,)), L.Dense(6, name="a"), Nameless(3)])
    name = model.layers[1].name
    model.compile("sgd", "mse")
    x = np.ones((8, 4), "float32")
    target = dynhp.Target(compression=1.2)
    model.fit(x, x[:, :3], epochs=2, verbose=0, callbacks=[dynhp.DynHP(target=target)])
    assert model.layers[0].units < 6 and model.layers[1].name == name
