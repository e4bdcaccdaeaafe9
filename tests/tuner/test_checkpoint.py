import keras
import numpy as np
import pytest

from keras_dynhp.graph.groups import find_groups
from keras_dynhp.tuner.checkpoint import ENDING, LoadsPruned, Stage, _remove, save


def residual(width=12):
    keras.utils.set_random_seed(3)
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(width, 3, padding="same")(inputs)
    y = keras.layers.Lambda(lambda t: t * 1.0)(keras.layers.Conv2D(4, 1)(x))
    z = keras.layers.Conv2D(width, 3, padding="same")(x)
    x = keras.layers.BatchNormalization()(keras.layers.Add()([x, z]))
    x = keras.layers.Concatenate()([x, y])
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalMaxPooling2D()(x)))


def test_round_trip_through_several_stages(tmp_path):
    random = np.random.default_rng(0)
    path = str(tmp_path / "checkpoint.weights.h5")
    first = residual()
    stages = []
    for share in (0.3, 0.5):
        groups = find_groups(first)
        removed = [np.flatnonzero(random.random(g.size) < share) for g in groups]
        assert any(len(r) for r in removed)
        stages.append(Stage(False, removed))
        _remove(first, stages[-1], path)
    for variable in first.variables:
        if "seed" not in variable.path:
            variable.assign(random.normal(size=variable.shape) ** 2)
    save(first, path, stages)

    second = residual()
    loader = LoadsPruned(second)
    second.load_weights(path)
    x = random.normal(size=(4, 6, 6, 2)).astype("float32")
    np.testing.assert_allclose(second.predict(x, verbose=0), first.predict(x, verbose=0), rtol=1e-5)
    assert second.count_params() == first.count_params() < residual().count_params()
    assert loader.full.parameters == residual().count_params()
    assert len(loader.stages) == 2
    second.load_weights(path)  # a second time changes nothing
    np.testing.assert_allclose(second.predict(x, verbose=0), first.predict(x, verbose=0), rtol=1e-5)
    loader.leave()
    assert "load_weights" not in vars(second)


def test_weights_of_a_full_network_load_as_ever(tmp_path):
    path = str(tmp_path / "full.weights.h5")
    first, second = residual(), residual()
    first.layers[1].kernel.assign(first.layers[1].kernel * 2)
    first.save_weights(path)
    LoadsPruned(second)
    second.load_weights(path)
    np.testing.assert_array_equal(second.layers[1].kernel, first.layers[1].kernel)


def test_another_network_is_refused(tmp_path):
    path = str(tmp_path / "checkpoint.weights.h5")
    model = residual()
    sizes = [g.size for g in find_groups(model)]
    save(model, path, [Stage(False, [np.arange(0) for _ in sizes])])
    other = residual(width=8)
    LoadsPruned(other)
    with pytest.raises(ValueError, match="saved from another network"):
        other.load_weights(path)
    assert (tmp_path / ("checkpoint.weights.h5" + ENDING)).exists()
