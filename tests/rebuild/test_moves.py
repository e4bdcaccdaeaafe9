"""What is set on layers and variables after they were made goes with them; one weight stays one."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_dynhp as dynhp

COPIES = {
    "add_masks": dynhp.add_masks,
    "rebuild": lambda model: dynhp.rebuild(dynhp.add_masks(model)),
    "prune": lambda model: dynhp.prune(model, dynhp.Target(compression=1.2)),
    "to_functional": dynhp.to_functional,
}


def network():
    inputs = keras.Input((6,))
    x = L.Dense(8, activation="relu", name="first")(inputs)
    return keras.Model(inputs, L.Dense(2, name="last")(x))


def check_settings(model):
    first, last = model.get_layer("first"), model.get_layer("last")
    assert [v.trainable for v in (first.kernel, first.bias, last.kernel)] == [True, False, True]
    assert first.kernel.regularizer.l2 == pytest.approx(0.1)
    assert isinstance(last.kernel.constraint, keras.constraints.NonNeg)
    assert first.bias.regularizer is None and last.bias.constraint is None


def set_up():
    model = network()
    first, last = model.get_layer("first"), model.get_layer("last")
    first.bias.trainable = False
    first.kernel.regularizer = keras.regularizers.L2(0.1)
    last.kernel.constraint = keras.constraints.NonNeg()
    return model


@pytest.mark.parametrize("copy", COPIES)
def test_settings_of_variables_in_copies(copy):
    check_settings(COPIES[copy](set_up()))


def test_settings_of_variables_in_a_fit():
    model = set_up()
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    bias = np.array(model.get_layer("first").bias)
    hp = dynhp.DynHP(target=dynhp.Target(compression=1.5))
    model.fit(x, x[:, :2], epochs=4, verbose=0, callbacks=[hp])
    assert model.get_layer("first").units < 8
    check_settings(model)
    assert np.isin(np.array(model.get_layer("first").bias), bias).all()
    assert (np.array(model.get_layer("last").kernel) >= 0).all()


class Holder(L.Layer):
    """Computes with a layer that is not its own."""

    def __init__(self, held, **kwargs):
        super().__init__(**kwargs)
        self.held = held

    def build(self, shape):
        self.built = True

    def call(self, x):
        return self.held(x)

    def get_config(self):
        return {**super().get_config(), "held": keras.saving.serialize_keras_object(self.held)}

    @classmethod
    def from_config(cls, config):
        held = keras.saving.deserialize_keras_object(config.pop("held"))
        if not held.built:
            held.build((None, 6))
        return cls(held, **config)


def test_a_weight_of_two_layers_is_refused_before_training():
    """Made anew, each of the two would have its own, and the network would be another one."""
    shared = L.Dense(6, name="shared")
    inputs = keras.Input((6,))
    x = L.Dense(9, name="first")(Holder(shared, name="holder")(shared(inputs)))
    model = keras.Model(inputs, L.Dense(2)(x))
    model.compile("adam", "mse")
    before = model.get_weights()
    hp = dynhp.DynHP(target=dynhp.Target(compression=1.2))
    for refused in (
        lambda: dynhp.rebuild(dynhp.add_masks(model)),
        lambda: model.fit(np.zeros((8, 6)), np.zeros((8, 2)), callbacks=[hp], verbose=0),
    ):
        with pytest.raises(ValueError, match=r"'shared/kernel' is held by layer '(holder|shared)'"):
            refused()
    for one, other in zip(before, model.get_weights()):
        np.testing.assert_array_equal(one, other)
    with pytest.warns(UserWarning, match="'shared' is called in two of the models"):
        opened = dynhp.to_functional(model)  # which is one layer in two graphs
    x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    np.testing.assert_array_equal(opened(x), model(x))
    assert len(opened.variables) == len(model.variables)
