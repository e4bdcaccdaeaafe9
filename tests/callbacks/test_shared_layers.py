"""A model whose layers another model holds: refused before anything is changed."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_dynhp as dynhp


def weights_of(model):
    return [np.array(variable) for variable in model.weights]


@pytest.mark.parametrize("callback", [dynhp.DynHP, dynhp.PruneAndRebuild])
def test_refused_and_both_untouched(callback):
    model = keras.Sequential([keras.Input((6,)), L.Dense(8, name="code"), L.Dense(2)], name="whole")
    part = keras.Model(model.inputs, model.layers[0].output, name="part")
    model.compile("adam", "mse")
    x, y = np.ones((16, 6), "float32"), np.ones((16, 2), "float32")
    before = weights_of(model)
    with pytest.raises(ValueError, match="'part' shares layer 'code' with 'whole'"):
        model.fit(x, y, verbose=0, callbacks=[callback()])
    for one, other in zip(before, weights_of(model)):
        np.testing.assert_array_equal(one, other)
    assert part.predict(x, verbose=0).shape == (16, 8)
    del part
    hp = dynhp.PruneAndRebuild(dynhp.Target(compression=2))
    model.fit(x, y, epochs=3, verbose=0, callbacks=[hp])
    assert model.get_layer("code").units < 8
    again = keras.Model(model.inputs, model.get_layer("code").output)
    assert again.predict(x, verbose=0).shape == (16, model.get_layer("code").units)
