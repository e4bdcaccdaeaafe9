"""Making the user's model be another graph, asked of the Keras that is installed."""

import keras
import numpy as np
import pytest

from keras_dynhp.keras_state.model import adopt, forget_compiled_steps, graph_of, renew_train_step

X, Y = np.ones((8, 3), "float32"), np.ones((8, 1), "float32")


class Own(keras.Model):
    """Holds a layer of its graph under a name of its own, and one that is outside the graph."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.first = self.layers[1]
        self.aside = keras.layers.Dense(1)
        self.aside.build((None, 1))


def functional(units, cls=keras.Model):
    inputs = keras.Input((3,), name="x")
    hidden = keras.layers.Dense(units, name="hidden")(inputs)
    return cls(inputs, {"y": keras.layers.Dense(1, name="out")(hidden * 2.0)}, name="model")


def sequential(units):
    layers = [keras.layers.Dense(units, name="hidden"), keras.layers.Dense(1, name="out")]
    return keras.Sequential([keras.Input((3,), name="x"), *layers], name="model")


KINDS = {
    "functional": functional,
    "subclass": lambda units: functional(units, Own),
    "sequential": sequential,
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def compiled(model):
    model.compile("sgd", "mse")
    return model


def pairs(old, new):
    return list(zip(old.layers, new.layers))[: len(old.layers)]


def graph_layers(model):
    return [layer for layer in model.layers if layer.name in ("x", "hidden", "out")]


@every_kind
def test_the_model_is_the_other_graph_in_every_respect(kind, tmp_path):
    model, other = compiled(KINDS[kind](8)), KINDS[kind](5)
    model.fit(X, Y, verbose=0)
    model.predict(X, verbose=0)
    optimizer, expected = model.optimizer, other.predict(X, verbose=0)
    # Before Keras 3.15 a Functional model does not count a layer outside its graph.
    outside = model.count_params() - (3 * 8 + 8 + 8 + 1)
    assert outside in ({0, 2} if kind == "subclass" else {0})
    adopt(model, other, list(zip(graph_layers(model), graph_layers(other))))
    assert graph_layers(model) == graph_layers(other)
    assert model.optimizer is optimizer
    assert model.get_layer("hidden").units == 5
    assert model.count_params() == 3 * 5 + 5 + 5 + 1 + outside
    shown = []
    model.summary(print_fn=lambda line: shown.append(line))
    assert "(None, 5)" in "".join(shown) and "(None, 8)" not in "".join(shown)
    for mine, theirs in zip(*map(keras.tree.flatten, (model.predict(X, verbose=0), expected))):
        np.testing.assert_array_equal(mine, theirs)
    if kind == "subclass":
        assert model.first is model.get_layer("hidden")
        inside = {id(v) for v in model.aside.variables} < {id(v) for v in model.variables}
        assert inside == bool(outside)
    else:
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert loaded.count_params() == model.count_params()
    known = [id(variable) for variable in model.trainable_variables]
    assert len(known) == len(set(known)) == 4 + outside


@every_kind
def test_a_graph_that_was_can_be_given_back(kind):
    model, other = compiled(KINDS[kind](8)), KINDS[kind](5)
    before = graph_layers(model)
    expected = keras.tree.flatten(model.predict(X, verbose=0))
    graph = graph_of(model)
    adopt(model, other, list(zip(before, graph_layers(other))))
    # What was noted is the graph of then, not whatever the model is.
    assert [layer for layer in graph.layers if layer in before] == before
    adopt(model, graph, list(zip(graph_layers(other), before)))
    assert graph_layers(model) == before
    for mine, theirs in zip(keras.tree.flatten(model.predict(X, verbose=0)), expected):
        np.testing.assert_array_equal(mine, theirs)
    model.summary(print_fn=lambda line: None)
    if kind == "subclass":
        assert model.first is before[1]
    compiled(model).fit(X, Y, verbose=0)


@every_kind
def test_traced_functions_are_dropped(kind):
    model = compiled(KINDS[kind](4))
    model.fit(X, Y, verbose=0, validation_data=(X, Y))
    model.predict(X, verbose=0)
    names = ("train_function", "test_function", "predict_function")
    assert all(getattr(model, name) is not None for name in names)
    forget_compiled_steps(model)
    assert all(getattr(model, name) is None for name in names)


def test_a_renewed_step_is_traced_again():
    traced = []

    class Tells(keras.Model):
        def train_step(self, batch):
            traced.append(len(traced))
            return super().train_step(batch)

    class Renew(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                renew_train_step(self.model)

    model = compiled(functional(4, Tells))
    model.fit(X, {"y": Y}, epochs=1, verbose=0)
    once = len(traced)
    model.fit(X, {"y": Y}, epochs=3, verbose=0, callbacks=[Renew()])
    assert len(traced) == 2 * once
