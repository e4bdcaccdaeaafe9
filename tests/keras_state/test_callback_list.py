"""Finding and sorting the list that calls a callback, asked of the Keras that is installed."""

import keras
import numpy as np
import pytest

from keras_dynhp.keras_state.callback_list import list_that_calls, reorder, start_at_epoch

X, Y = np.ones((8, 3), "float32"), np.ones((8, 1), "float32")


def make():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


class Noting(keras.callbacks.Callback):
    def __init__(self, name, calls, **actions):
        super().__init__()
        self.name, self.calls, self.actions = name, calls, actions

    def note(self, method):
        self.calls.append(f"{self.name} {method}")
        if method in self.actions:
            self.actions[method](self)

    def set_params(self, params):
        super().set_params(params)
        self.note("set_params")

    def on_train_begin(self, logs=None):
        self.note("begin")

    def on_epoch_begin(self, epoch, logs=None):
        self.note(f"epoch {epoch}")


def test_the_list_is_complete_when_it_sets_params_and_found_in_every_method():
    found = {}

    def find(method):
        def act(callback):
            found[method] = list_that_calls(callback)

        return act

    last = Noting("last", [])
    actions = {method: find(method) for method in ("set_params", "begin", "epoch 0")}
    first = Noting("first", [], **actions)
    make().fit(X, Y, verbose=0, callbacks=[first, last])
    lists = list(found.values())
    assert len(lists) == 3 and all(each is lists[0] for each in lists)
    assert isinstance(lists[0], keras.callbacks.CallbackList)
    assert {first, last} <= set(lists[0].callbacks)
    assert any(isinstance(each, keras.callbacks.History) for each in lists[0].callbacks)
    assert list_that_calls(first) is None  # nobody does now


@pytest.mark.parametrize("given_as_list", [True, False])
def test_reordered_in_set_params_the_order_holds_from_then_on(given_as_list):
    calls = []

    def last_first(callback):
        listed = list_that_calls(callback)
        reorder(listed, lambda other: 0 if getattr(other, "name", "") == "c" else 1)

    callbacks = [Noting(name, calls) for name in "ab"]
    callbacks.append(Noting("c", calls, set_params=last_first))
    model = make()
    if not given_as_list:
        callbacks = keras.callbacks.CallbackList(
            callbacks, add_history=True, model=model, epochs=1, steps=1
        )
    model.fit(X, Y, verbose=0, callbacks=callbacks)
    # Every callback has been asked once, and equals have stayed in their order.
    assert calls == [
        *("a set_params", "b set_params", "c set_params"),
        *("c begin", "a begin", "b begin"),
        *("c epoch 0", "a epoch 0", "b epoch 0"),
    ]


def test_the_history_that_fit_returns_follows():
    logs_seen = {}

    def add(callback):
        reorder(list_that_calls(callback), lambda other: 0 if other is callback else 1)

    class Adds(Noting):
        def on_epoch_end(self, epoch, logs=None):
            logs["mine"] = 7.0

    history = make().fit(X, Y, verbose=0, callbacks=[Adds("a", [], set_params=add)])
    logs_seen.update(history.history)
    assert logs_seen["mine"] == [7.0]


def test_fit_begins_with_the_epoch_that_is_set():
    calls = []
    model = make()

    def later(callback):
        start_at_epoch(callback.model, 2)

    def as_ever(callback):
        start_at_epoch(callback.model, None)

    skip = Noting("a", calls, begin=later, **{"epoch 2": as_ever})
    history = model.fit(X, Y, epochs=4, verbose=0, callbacks=[skip])
    assert history.epoch == [2, 3]
    assert model.fit(X, Y, epochs=2, initial_epoch=1, verbose=0).epoch == [1]
