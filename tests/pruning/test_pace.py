"""Learning rates of variables that have become smaller."""

import keras
import numpy as np
import pytest

import keras_dynhp as dynhp
from keras_dynhp.pruning.pace import learning_rate_factor, shrinkage


def mlp():
    return keras.Sequential(
        [
            keras.Input((10,)),
            keras.layers.Dense(20, "tanh", name="a"),
            keras.layers.Dense(40, "tanh", name="b"),
            keras.layers.Dense(3, name="c"),
        ]
    )


def test_every_variable_by_its_own_shape():
    model = mlp()
    factors = shrinkage(dynhp.find_groups(model), {"a": 80.0, "b": 40.0})
    by_path = {v.path.split("/", 1)[1]: factors.get(id(v), 1.0) for v in model.variables}
    assert by_path == {
        "a/kernel": 4.0,
        "a/bias": 4.0,
        "b/kernel": 4.0,
        "b/bias": 1.0,
        "c/kernel": 1.0,
        "c/bias": 1.0,
    }


def test_what_repeats_and_what_stands_beside_counts():
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, name="conv")(inputs)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Concatenate()([x, keras.layers.Flatten()(inputs)])
    model = keras.Model(inputs, keras.layers.Dense(2, name="out")(x))
    factors = shrinkage(dynhp.find_groups(model), {"conv": 8.0})
    kernel = model.get_layer("out").kernel
    assert factors[id(kernel)] == pytest.approx((36 * 8 + 64) / (36 * 4 + 64))


@pytest.mark.parametrize(
    ("optimizer", "factor"), [(keras.optimizers.Adam(), 2.0), (keras.optimizers.SGD(0.1, 0.9), 1.0)]
)
def test_only_steps_as_large_as_the_rate_need_it(optimizer, factor):
    assert learning_rate_factor(optimizer, 4.0) == factor


@pytest.mark.parametrize("prunes", [True, False])
def test_rates_in_a_fit(prunes):
    """RMSprop without memory moves each weight by the learning rate: by hand."""
    model = mlp()
    optimizer = keras.optimizers.RMSprop(1e-3, rho=0.0, epsilon=1e-12)
    model.compile(optimizer, "mse")
    x, y = np.random.normal(size=(32, 10)), np.random.normal(size=(32, 3))
    schedule = (lambda progress: 1.0) if prunes else (lambda progress: 0.0)
    hp = dynhp.PruneAndRebuild(dynhp.Target(compression=3), schedule=schedule)
    seen = []

    def note(batch, logs):
        seen.append([np.asarray(v).copy() for v in model.variables])

    step = keras.callbacks.LambdaCallback(on_train_batch_end=note)
    model.fit(x, y, batch_size=32, epochs=3, callbacks=[hp, step], verbose=0)
    widths = [layer.units for layer in model.layers]
    shrunk = [20 / widths[0]] * 2 + [20 / widths[0] * 40 / widths[1], 40 / widths[1]]
    shrunk += [40 / widths[1], 1.0]
    assert (max(shrunk) > 1) == prunes
    for before, after, times in zip(seen[-2], seen[-1], shrunk):
        moved = np.abs(after - before).max()
        assert moved == pytest.approx(1e-3 * times**0.5, rel=1e-2)
