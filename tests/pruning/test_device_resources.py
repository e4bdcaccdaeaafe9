"""Flash and arena as functions of widths, against the estimates of networks of those widths."""

import keras
import numpy as np
import pytest

import keras_dynhp as dynhp
from keras_dynhp.costs.arena import estimate_arena
from keras_dynhp.costs.flash import estimate_flash
from keras_dynhp.pruning.device_resources import Ram, flash_bytes

layers = keras.layers


def network(first=16, second=16, hidden=64):
    """The first convolution's output and what reads it are by far the largest tensors."""
    inputs = keras.Input((24, 24, 1))
    x = layers.Conv2D(first, 3, padding="same", use_bias=False, name="first")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, strides=2, padding="same")(x)
    x = layers.Conv2D(second, 3, strides=2, activation="relu", name="second")(x)
    x = layers.Dense(hidden, activation="relu", name="hidden")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(10)(x))


@pytest.fixture(scope="module")
def groups():
    found = dynhp.find_groups(network())
    assert [group.name for group in found] == ["first", "second", "hidden"]
    return found


@pytest.mark.parametrize("widths", [(16, 16, 64), (12, 9, 40), (4, 16, 20), (16, 3, 7)])
def test_values_are_those_of_a_network_of_these_widths(widths, groups):
    small = network(*widths)
    flash, ram = flash_bytes(groups), Ram(groups)
    assert flash.value(np.array(widths)) == pytest.approx(estimate_flash(small), rel=0.03)
    assert ram.value(np.array(widths)) == pytest.approx(estimate_arena(small), rel=0.05)


def test_a_neuron_costs_flash_by_what_mentions_it(groups):
    costs = flash_bytes(groups).per_neuron(np.array([16, 16, 64]))
    # Of "hidden": 5 * 5 * 16 weights in, 10 out, and a bias of four bytes.
    assert costs[2] == 5 * 5 * 16 + 10 + 4


def test_only_what_makes_the_peak_is_worth_pruning_for_ram(groups):
    ram = Ram(groups)
    first, second, hidden = ram.per_neuron(np.array([16, 16, 64]))
    # One channel of it and one of the depthwise convolution: 24 * 24 and 12 * 12 bytes.
    assert first == pytest.approx(24 * 24 + 12 * 12)
    assert second == hidden == 0


def test_pruning_for_ram_attacks_the_peak():
    model = network()
    small = dynhp.prune(model, dynhp.Target(ram=7000))
    assert small.get_layer("first").filters < 10
    assert small.get_layer("second").filters == 16 and small.get_layer("hidden").units == 64
    assert estimate_arena(small) <= 7000
    # Flash lies elsewhere.
    small = dynhp.prune(model, dynhp.Target(flash=int(0.5 * estimate_flash(model))))
    assert small.get_layer("first").filters == 16
    assert small.get_layer("second").filters * small.get_layer("hidden").units < 16 * 64


def test_ram_follows_a_residual_trunk():
    inputs = keras.Input((16, 16, 1))
    trunk = layers.Conv2D(12, 3, padding="same", name="trunk")(inputs)
    x = layers.Conv2D(20, 3, padding="same", activation="relu", name="inside")(trunk)
    x = layers.Add()([trunk, layers.Conv2D(12, 3, padding="same", name="back")(x)])
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    groups = dynhp.find_groups(model)
    costs = dict(zip((g.name for g in groups), Ram(groups).per_neuron([g.size for g in groups])))
    # While "back" runs, the trunk, the inside and what "back" makes are alive.
    trunk_name = next(name for name in costs if name != "inside")
    assert costs["inside"] == pytest.approx(256) and costs[trunk_name] == pytest.approx(512)
