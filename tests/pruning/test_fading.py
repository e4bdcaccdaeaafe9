"""Neurons on trial fade, resist, and come back."""

import keras
import numpy as np

import keras_dynhp as dynhp
from keras_dynhp.keras_state.optimizer import variable_key
from keras_dynhp.pruning.fading import LEFT, Fading, follow_rebuild, restore
from keras_dynhp.rebuild.transfer import Transfer

layers = keras.layers


def model_and_groups():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, name="a"),
            layers.Dense(3, name="b"),
            layers.Dense(2, name="out"),
        ]
    )
    model.compile("sgd", "mse")
    model.optimizer.build(model.trainable_variables)
    return model, dynhp.find_groups(model)


MASKS = {"a": np.array([True, False, True, True]), "b": np.array([False, True, True])}


def test_only_what_reads_a_neuron_on_trial_fades():
    model, groups = model_and_groups()
    before = [np.array(v) for v in model.variables]
    fading = Fading(groups, MASKS, model.optimizer, steps=10)
    assert fading.masked == 2
    for _ in range(10):
        for variable in model.trainable_variables:
            fading.after_update(variable_key(model.optimizer, variable), variable)
    after = [np.array(v) for v in model.variables]
    wanted = [b.copy() for b in before]
    wanted[2][1] *= LEFT  # the kernel of "b" reads "a"
    wanted[4][0] *= LEFT
    for found, want in zip(after, wanted):
        np.testing.assert_allclose(found, want, rtol=1e-5)
    restore(fading.originals())
    for variable, value in zip(model.variables, before):
        np.testing.assert_array_equal(variable, value)


def test_what_else_was_learned_is_not_undone():
    model, groups = model_and_groups()
    fading = Fading(groups, MASKS, model.optimizer, steps=1)
    kernel = model.get_layer("b").kernel
    before = np.array(kernel)
    kernel.assign(kernel + 1.0)
    restore(fading.originals())
    wanted = before + 1.0
    wanted[1] = before[1]
    np.testing.assert_allclose(kernel, wanted, rtol=1e-6)


def test_a_wide_trial_is_as_good_as_a_mask():
    """After the whole interval the model computes nearly what the masked one does."""
    model, groups = model_and_groups()
    x = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
    masked = dynhp.add_masks(model)
    for layer in masked.layers:
        if isinstance(layer, dynhp.NeuronMask):
            layer.mask.assign(MASKS["a" if layer.mask.shape == (4,) else "b"].astype("float32"))
    gap_before = np.abs(model.predict(x, verbose=0) - masked.predict(x, verbose=0)).max()
    fading = Fading(groups, MASKS, model.optimizer, steps=7)
    for _ in range(7):
        for variable in model.trainable_variables:
            fading.after_update(variable_key(model.optimizer, variable), variable)
    gap = np.abs(model.predict(x, verbose=0) - masked.predict(x, verbose=0)).max()
    assert gap < 0.02 * gap_before


def test_what_comes_back_takes_no_more_than_what_is_on_trial():
    model, groups = model_and_groups()
    fading = Fading(groups, MASKS, model.optimizer, steps=7)
    assert [len(values) for _, values, _ in fading.originals()] == [3, 2]  # a row each


def test_what_comes_back_follows_a_rebuild():
    kernel = keras.Variable(np.arange(12.0).reshape(4, 3))
    where = np.zeros((4, 3), bool)
    where[1], where[3] = True, True
    smaller = keras.Variable(np.zeros((3, 2)))
    move = Transfer(kernel, smaller, {0: np.array([0, 2, 3]), 1: np.array([0, 2])})
    originals = [(kernel, np.arange(6.0) + 50, where)]
    restore(follow_rebuild(originals, {id(kernel): move}))
    np.testing.assert_array_equal(smaller, [[0, 0], [0, 0], [53, 55]])


@keras.saving.register_keras_serializable(package="tests")
class Jump(dynhp.BatchRule):
    """Four times as large with each epoch."""

    def __call__(self, context):
        return 4 * context.current


class Trials(keras.callbacks.Callback):
    """What trials leave of weights, at the end of each epoch's last step."""

    def __init__(self, hp):
        super().__init__()
        self.hp, self.left = hp, []

    def on_train_batch_end(self, batch, logs=None):
        trial = self.hp._engine._trial
        if trial is not None and batch + 1 == self.params["steps"]:
            now = [np.asarray(variable)[where] for variable, _, where in trial.originals()]
            before = [values for _, values, _ in trial.originals()]
            self.left.append(np.concatenate(now) / np.concatenate(before))


def test_a_trial_is_over_with_its_epoch_though_the_batch_has_grown():
    """The validated network is the one that remains: what goes has faded until then."""
    model, _ = model_and_groups()
    model.compile(keras.optimizers.SGD(0.0), "mse")  # nothing but trials changes weights
    random = np.random.default_rng(0)
    x, y = random.normal(size=(512, 3)), random.normal(size=(512, 2))
    hp = dynhp.DynHP(
        target=dynhp.Target(compression=2), batch_size=Jump(), schedule=lambda progress: progress
    )
    trials = Trials(hp)
    told = model.fit(x, y, 8, epochs=4, callbacks=[hp, trials], verbose=0).history
    assert told["batch_size"] == [8, 32, 128, 512]
    assert len(trials.left) > 1
    for left in trials.left:
        np.testing.assert_allclose(left, LEFT, rtol=1e-3)
