"""Dropout layers look up their rate whenever they are called."""

import keras
import numpy as np
import pytest
from keras import layers as L

from keras_dynhp.keras_state.dropout import scale_rate


@pytest.mark.parametrize(
    "layer", [L.Dropout, L.SpatialDropout1D, L.GaussianDropout, L.AlphaDropout]
)
def test_every_kind_of_dropout(layer):
    drop, x = layer(0.5), np.random.rand(4, 5, 6).astype("float32")
    undo = scale_rate(drop, 0.0)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(drop(x, training=True)), x)
    undo()
    assert (keras.ops.convert_to_numpy(drop(x, training=True)) != x).any()
