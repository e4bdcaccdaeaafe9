"""A network half of whose neurons are dead: without them it computes and learns the same.

A dead neuron has no weights in and none out, so it gets no gradient and stays dead. A fit in which
exactly the dead ones are pruned must therefore give the numbers of a fit that never prunes.
"""

import random

import keras
import numpy as np

import keras_dynhp as dynhp

DEAD = (8, 6)  # the last so many neurons of each hidden layer
LIVE = (8, 6)
EPOCHS = 3


def optimizer():
    """With slots; half as many operations to trace as Adam's, which is what these tests take."""
    return keras.optimizers.SGD(0.02, momentum=0.9)


def data(samples=40, outputs=3):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(samples, 5)).astype("float32")
    y = (x @ rng.normal(size=(5, outputs)) + 0.3 * np.sin(3 * x[:, :1])).astype("float32")
    return x, y


def network(heads=1, cls=keras.Model, synchronized=False):
    """Input 5, two half-dead hidden layers, one or more outputs of width 3.

    `synchronized`: whether replicas share the statistics of their batches.
    """
    random.seed(1)  # from which Keras draws the seeds of initializers
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(LIVE[0] + DEAD[0], "relu", name="first")(inputs)
    hidden = keras.layers.BatchNormalization(name="norm", synchronized=synchronized)(hidden)
    hidden = keras.layers.Dense(LIVE[1] + DEAD[1], "relu", name="second")(hidden)
    names = ["out", "side", "third"][:heads]
    outputs = [keras.layers.Dense(3, name=name)(hidden) for name in names]
    model = cls(inputs, outputs[0] if heads == 1 else dict(zip(names, outputs)))
    kill(model)
    return model


def kill(model):
    for layer, live in (("first", LIVE[0]), ("second", LIVE[1])):
        kernel = model.get_layer(layer).kernel
        alive = np.arange(kernel.shape[1]) < live
        kernel.assign(kernel * alive)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense) and layer.name != "first":
            live = LIVE[0] if layer.name == "second" else LIVE[1]
            alive = np.arange(layer.kernel.shape[0]) < live
            layer.kernel.assign(layer.kernel * alive[:, None])


def live_params(heads=1, extra=0):
    first, second = LIVE
    return (
        extra + 5 * first + first + 4 * first + first * second + second + heads * (second * 3 + 3)
    )


def steps(progress):
    """A schedule: the dead ones go at the end of the second epoch, after one behind masks."""
    return 0.0 if progress < 0.5 else 1.0


def never(progress):
    """A schedule that never prunes."""
    return 0.0


def compare(make, fit, heads=1, tolerance=1e-5, idle=None, extra=0):
    """A fit that prunes nothing and one that removes the dead give the numbers of a plain one.

    `make()` gives a compiled model and `fit(model, callbacks)` trains it and returns the history;
    `idle` is the tolerance where nothing is pruned, None to leave that run out; `extra` counts
    parameters of the model's own. Returns the plain history and the pruned model.
    """
    plain_model = make()
    # Or the first step would be traced twice, for it would make variables.
    plain_model.optimizer.build(plain_model.trainable_variables)
    plain = fit(plain_model, [])
    target = dynhp.Target(params=live_params(heads, extra))
    if idle is not None:
        idle_model = make()
        assert_same(plain, fit(idle_model, [dynhp.PruneAndRebuild(target, schedule=never)]), idle)
        for mine, theirs in zip(plain_model.weights, idle_model.weights, strict=True):
            np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=idle, atol=idle)
    pruned_model = make()
    pruned = fit(pruned_model, [dynhp.PruneAndRebuild(target, schedule=steps)])
    assert_same(plain, pruned, tolerance)
    assert pruned_model.count_params() == pruned["params"][-1] == live_params(heads, extra)
    x = data()[0]
    predicted = keras.tree.flatten(pruned_model.predict(x, verbose=0))
    for one, other in zip(keras.tree.flatten(plain_model(x)), predicted):
        np.testing.assert_allclose(one, other, rtol=tolerance * 10, atol=tolerance * 10)
    return plain, pruned_model


def assert_same(plain, other, tolerance):
    assert set(plain) <= set(other)
    for key, values in plain.items():
        np.testing.assert_allclose(other[key], values, rtol=tolerance, atol=tolerance, err_msg=key)
