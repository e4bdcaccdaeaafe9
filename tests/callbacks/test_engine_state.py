"""The state of a run: read off, taken up, gone back to."""

import keras
import numpy as np
import pytest
from half_dead import data, network

import keras_dynhp as dynhp
from keras_dynhp.pruning.engine import Engine, Memory
from keras_dynhp.saving.files import read_tree, write_tree

X, Y = data()
TARGET = dynhp.Target(params=80)  # goes below the dead ones


def compiled(optimizer="adam"):
    model = network()
    model.compile(optimizer, "mse")
    return model


class Manual(keras.callbacks.Callback):
    """Calls an engine at the epochs' ends as it is told."""

    def __init__(self, actions):
        super().__init__()
        self.actions, self.notes = actions, {}

    def on_train_begin(self, logs=None):
        self.engine = Engine(self.model, TARGET, dynhp.criteria.get("taylor"))
        self.engine.watch()

    def on_epoch_end(self, epoch, logs=None):
        for action in self.actions.get(epoch, ()):
            action(self)


def run(model, actions, epochs):
    manual = Manual(actions)
    manual.history = model.fit(
        X, Y, epochs=epochs, batch_size=10, shuffle=False, verbose=0, callbacks=[manual]
    ).history["loss"]
    return manual


def prune(fraction):
    def act(manual):
        manual.engine.mask_next(fraction)
        manual.engine.prune(fraction)

    return act


@pytest.mark.parametrize("masked", [False, True])
def test_a_state_goes_through_a_file_to_another_process_like_model(tmp_path, masked):
    path = tmp_path / "state.npz"

    def save(manual):
        write_tree(path, manual.engine.get_state())

    def mask(manual):
        if masked:
            manual.engine.mask_next(0.9)

    def note(manual):
        manual.notes["state"] = manual.engine.get_state()

    first = run(compiled(), {1: [prune(0.4)], 2: [prune(0.7), mask, save], 4: [note]}, epochs=5)
    again = compiled()

    class Resume(Manual):
        def on_train_begin(self, logs=None):
            super().on_train_begin(logs)
            self.engine.set_state(read_tree(path))

    second = Resume({1: [note]})
    losses = again.fit(
        X, Y, epochs=2, batch_size=10, shuffle=False, verbose=0, callbacks=[second]
    ).history["loss"]
    np.testing.assert_array_equal(losses, first.history[3:])
    assert second.engine.widths() == first.engine.widths()
    assert_equal(first.notes["state"], second.notes["state"])


def assert_equal(one, other):
    flat = [keras.tree.flatten(tree) for tree in (one, other)]
    assert len(flat[0]) == len(flat[1])
    for mine, theirs in zip(*flat):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.sweep("Adam-False|Nadam-True")
@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize(
    "optimizer",
    [lambda: keras.optimizers.Adam(0.01), lambda: keras.optimizers.Nadam(0.01)],
    ids=["Adam", "Nadam"],
)
def test_going_back_gives_the_network_of_then(tmp_path, optimizer, sequential):
    model = network()
    if sequential:
        model = keras.Sequential([keras.Input((5,)), *model.layers[1:]])
    model.compile(optimizer(), "mse")
    layers, predictions, slots = list(model.layers), {}, {}

    def remember(manual):
        manual.memory = Memory(manual.engine, tmp_path / "network.npz")
        predictions["then"] = model.predict(X, verbose=0)
        slots["then"] = [np.array(v) for v in model.optimizer.variables[2:]]

    def go_back(manual):
        predictions["small"] = model.predict(X, verbose=0)
        assert model.count_params() < 150
        manual.engine.go_back(manual.memory)
        predictions["back"] = model.predict(X, verbose=0)
        slots["back"] = [np.array(v) for v in model.optimizer.variables[2:]]

    manual = run(model, {1: [prune(0.4), remember, prune(0.8)], 2: [go_back]}, epochs=4)
    np.testing.assert_array_equal(predictions["then"], predictions["back"])
    assert not np.array_equal(predictions["small"], predictions["back"])
    for then, back in zip(slots["then"], slots["back"], strict=True):
        np.testing.assert_array_equal(then, back)
    assert manual.history[3] != manual.history[2]
    # It trains on, prunes on and can be saved.
    run(model, {1: [prune(0.9)]}, epochs=2)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.predict(X, verbose=0), model.predict(X, verbose=0), rtol=1e-6)
    assert len(layers) == len(model.layers)


def test_another_networks_state_is_refused():
    state = {}
    run(compiled(), {0: [lambda manual: state.update(manual.engine.get_state())]}, epochs=1)
    other = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(7, name="first"), keras.layers.Dense(3)]
    )
    other.compile("adam", "mse")
    engine = Engine(other, dynhp.Target(compression=2), dynhp.criteria.get("taylor"))
    with pytest.raises(ValueError, match="another network"):
        engine.set_state(state)


def test_random_criterion_goes_on_in_its_sequence():
    first, second = dynhp.criteria.get("random"), dynhp.criteria.get("random")
    groups = dynhp.find_groups(network())
    first.scores(groups)
    second.set_state(first.get_state())
    assert_equal(first.scores(groups), second.scores(groups))
