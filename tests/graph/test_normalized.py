"""Kernels whose scale makes no difference."""

import keras
import numpy as np
import pytest
from keras import layers as L

from keras_dynhp.graph.normalized import normalized_kernels


def names(model):
    found = normalized_kernels(model)
    paths = [v.path for v in model.trainable_variables if id(v) in found]
    return {"/".join(path.split("/")[-2:]) for path in paths}


def make(layer, norm, shape=(6, 6, 3)):
    return keras.Sequential([keras.Input(shape), layer, norm, L.Flatten(), L.Dense(2, name="out")])


@pytest.mark.parametrize(
    ("layer", "norm", "shape", "kernels"),
    [
        (L.Conv2D(4, 3, name="a"), L.BatchNormalization(), (6, 6, 3), {"a/kernel"}),
        (L.DepthwiseConv2D(3, name="a"), L.GroupNormalization(3), (6, 6, 3), {"a/kernel"}),
        (
            L.SeparableConv2D(4, 3, name="a"),
            L.BatchNormalization(),
            (6, 6, 3),
            {"a/depthwise_kernel", "a/pointwise_kernel"},
        ),
        (L.Dense(5, name="a"), L.LayerNormalization(), (7,), {"a/kernel"}),
        (L.EinsumDense("ab,bc->ac", 5, name="a"), L.UnitNormalization(), (7,), {"a/kernel"}),
        (L.Conv2D(4, 3, activation="relu", name="a"), L.BatchNormalization(), (6, 6, 3), set()),
        (L.Conv2D(4, 3, name="a"), L.ReLU(), (6, 6, 3), set()),
        (L.SimpleRNN(4, name="a"), L.BatchNormalization(), (6, 3), set()),
    ],
)
def test_linear_layers_in_front_of_a_normalization(layer, norm, shape, kernels):
    assert names(make(layer, norm, shape)) == kernels


def test_their_scale_makes_no_difference():
    keras.utils.set_random_seed(0)
    model = make(L.Conv2D(4, 3, use_bias=False, name="a"), L.BatchNormalization(epsilon=1e-9))
    x = np.random.normal(size=(5, 6, 6, 3))
    before = model(x, training=True)
    model.layers[0].kernel.assign(3.0 * model.layers[0].kernel)
    np.testing.assert_allclose(model(x, training=True), before, rtol=1e-3, atol=1e-4)


def test_all_that_reads_it_must_normalize():
    inputs = keras.Input((5,))
    both, once, shared = L.Dense(4, name="both"), L.Dense(4, name="once"), L.Dense(4, name="shared")
    x, y = both(inputs), once(inputs)
    norm = L.BatchNormalization(name="norm")
    out = L.Add()([x, norm(x), L.LayerNormalization()(y)])
    out = L.Add()([out, L.BatchNormalization()(shared(inputs)), shared(inputs)])
    assert names(keras.Model(inputs, out)) == {"once/kernel"}
    assert names(keras.Model(inputs, [out, y])) == set()


def test_inside_models():
    inner = make(L.Conv2D(4, 3, name="a"), L.BatchNormalization())
    model = keras.Sequential([keras.Input((6, 6, 3)), inner, L.BatchNormalization(), L.Dense(1)])
    assert names(model) == {"a/kernel"}
