"""The networks of the examples: the sizes the literature gives, and every one can be pruned."""

import keras
import numpy as np
import pytest

import keras_dynhp as dynhp
from examples.networks import NETWORKS

# Parameters and multiply-accumulates, counted by hand from the layers' shapes.
SIZES = {
    "lenet_300_100": (784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10, 784 * 300 + 30000 + 1000),
    "lenet_5": (520 + 25_050 + 400_500 + 5_010, 24 * 24 * 500 + 8 * 8 * 25_000 + 400_000 + 5_000),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_of_the_literature(name):
    model = NETWORKS[name]()
    assert (model.count_params(), dynhp.count_macs(model)) == SIZES[name]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3)])
def test_builds_for_small_images_and_gives_a_logit_per_class(name, shape):
    model = NETWORKS[name](shape, classes=7)
    logits = model(np.random.default_rng(0).normal(size=(2, *shape)).astype("float32"))
    assert logits.shape == (2, 7)
    assert len(dynhp.find_groups(model)) >= 2


@pytest.mark.parametrize("name", NETWORKS)
def test_the_configuration_alone_gives_the_same_architecture(name):
    """The benchmark trains a network of the size that DynHP ended with from its configuration."""
    model = NETWORKS[name]()
    twin = type(model).from_config(model.get_config())
    assert [w.shape for w in twin.weights] == [w.shape for w in model.weights]
    assert isinstance(twin, keras.Sequential) == isinstance(model, keras.Sequential)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_width_narrows_every_hidden_layer_alike(name):
    full, half = NETWORKS[name](), NETWORKS[name](width=0.5)
    for one, other in zip(full.weights, half.weights, strict=True):
        for whole, narrow in zip(one.shape, other.shape):
            assert narrow in (whole, whole / 2)
    assert half.count_params() < 0.6 * full.count_params()
    assert half.output_shape == full.output_shape
