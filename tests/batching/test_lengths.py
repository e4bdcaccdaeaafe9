"""Samples that differ in length from batch to batch; models that leave the length open."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import keras_dynhp as dynhp
from keras_dynhp.batching.data import FitData
from keras_dynhp.memory.estimate import StepMemory

LENGTHS = [3, 5, 2, 7, 4]  # of the batches; four samples each, the last has two


def batches(lengths):
    def words():
        for number, length in enumerate(lengths):
            rows = 2 if number + 1 == len(lengths) else 4
            yield np.full((rows, length), number, "int32"), np.full((rows,), number % 2)

    signature = (tf.TensorSpec((None, None), tf.int32), tf.TensorSpec((None,), tf.int64))
    return tf.data.Dataset.from_generator(words, output_signature=signature)


def reader(length=None, middle=()):
    return keras.Sequential(
        [
            keras.Input((length,), dtype="int32"),
            L.Embedding(9, 16),
            *middle,
            L.GlobalMaxPooling1D(),
            L.Dense(16, activation="relu"),
            L.Dense(2),
        ]
    )


class Watch(keras.callbacks.Callback):
    """Asks for batch sizes, and looks at the batches that come."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes, self.given, self.seen = sizes, [], []

    def on_train_begin(self, logs=None):
        self.data = FitData.attach(self.model)

    def on_epoch_begin(self, epoch, logs=None):
        self.data.set_batch_size(self.sizes[epoch])
        self.given.append(self.data.batch_size)
        self.steps = 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append((self.steps, self.data.num_samples))

    def on_train_end(self, logs=None):
        self.data.detach()


def watched(data, sizes):
    model = reader()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    watch = Watch(sizes)
    history = model.fit(data, epochs=len(sizes), verbose=0, shuffle=False, callbacks=[watch])
    assert np.isfinite(history.history["loss"]).all()
    return watch


def test_batches_of_other_lengths_are_cut_and_not_joined():
    watch = watched(batches(LENGTHS), [4, 9, 3, 4])
    assert watch.given == [4, 4, 3, 4]
    assert watch.seen == [(5, 18), (5, 18), (9, 18), (5, 18)]


def test_batches_of_one_length_are_joined_once_that_is_known():
    watch = watched(batches([6] * 5), [9, 9, 3, 3])
    assert watch.given == [4, 9, 3, 3]
    assert watch.seen == [(5, 18), (2, 18), (6, 18), (6, 18)]


def test_an_epoch_cut_before_lengths_are_known():
    watch = watched(batches([6] * 5), [3, 3])
    assert watch.given == [3, 3]
    assert watch.seen == [(9, 18), (6, 18)]


def test_a_resumed_run_knows_that_batches_have_one_length(tmp_path):
    """The first epoch told; the run that goes on has the larger batch from its first step."""

    def train(folder, dies=False):
        model = reader(None, [L.Conv1D(8, 2)])
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        hp = dynhp.DynHP("40MB", batch_size="memory")
        backup = dynhp.callbacks.BackupAndRestore(folder, delete_checkpoint=False)
        options = {"verbose": 0, "shuffle": False, "callbacks": [hp, backup]}

        def die(epoch, logs):
            if dies and epoch == 2:
                raise InterruptedError

        options["callbacks"].append(keras.callbacks.LambdaCallback(on_epoch_begin=die))
        model.fit(batches([6] * 5), epochs=4, **options)
        return [epoch["logs"]["batch_size"] for epoch in hp.report.epochs]

    whole = train(tmp_path / "whole")
    with pytest.raises(InterruptedError):
        train(tmp_path / "killed", dies=True)
    assert train(tmp_path / "killed") == whole and whole[1] > 4


@pytest.mark.parametrize("data", ["arrays", "one length", "many lengths"])
def test_a_model_that_leaves_a_length_open_is_pruned_in_a_budget(data):
    words, answers = np.arange(18 * 6).reshape(18, 6) % 9, np.arange(18) % 2
    given = {
        "arrays": {"x": words, "y": answers, "batch_size": 4},
        "one length": {"x": batches([6] * 5)},
        "many lengths": {"x": batches([6, 3, 9, 2, 4])},
    }[data]

    def middle():
        return [L.LSTM(8, return_sequences=True) if data == "arrays" else L.Conv1D(8, 2)]

    model = reader(None, middle())
    before = model.count_params()
    model.compile(
        "adam",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy()],
    )
    hp = dynhp.DynHP("40MB", batch_size="memory")
    logs = model.fit(**given, epochs=4, verbose=0, shuffle=False, callbacks=[hp]).history
    assert model.count_params() <= before / 4
    grows = data != "many lengths"
    assert (logs["batch_size"][-1] > 4) == grows == ("differ in length" not in str(hp.report))
    assert "unknown length" in str(hp.report)
    fixed = reader(6, middle())
    fixed.compile("adam", model.loss)
    assert logs["train_memory"][0] == StepMemory(fixed, pruning=True).at(4).total


def test_what_depends_on_an_open_length_is_refused_before_training():
    for target in (dynhp.Target(macs=100), dynhp.Target(flash="10KB")):
        model = reader(None, [L.Conv1D(8, 2)])
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        with pytest.raises(ValueError, match="axis of unknown length"):
            model.fit(batches(LENGTHS), verbose=0, callbacks=[dynhp.DynHP(target=target)])
        model.fit(batches(LENGTHS), verbose=0)  # the model stays usable


def test_inputs_of_a_dict_are_told_by_their_names():
    a, b = keras.Input((None, 3), name="z"), keras.Input((4,), name="y")
    x = L.Concatenate()([L.GlobalMaxPooling1D()(L.Conv1D(16, 2)(a)), L.Dense(8, "relu")(b)])
    model = keras.Model({"z": a, "y": b}, L.Dense(2)(x))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    parts = {"y": np.zeros((16, 4)), "z": np.zeros((16, 7, 3))}
    data = tf.data.Dataset.from_tensor_slices((parts, np.arange(16) % 2)).batch(8)
    found = []
    watch = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: found.append(FitData.attach(model).sample_shapes)
    )
    model.fit(data, verbose=0, shuffle=False, callbacks=[watch])
    assert dict(zip((tensor.name for tensor in model.inputs), found[0])) == {"z": (7, 3), "y": (4,)}


@pytest.mark.parametrize("budget", [None, "40MB", "500KB"])
def test_a_model_of_a_fixed_batch_keeps_it(budget):
    """A stateful layer has states for so many samples, in variables that Keras lists nowhere."""
    model = keras.Sequential(
        [keras.Input(batch_shape=(8, 5, 3)), L.LSTM(16, stateful=True), L.Dense(2)]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = np.random.rand(32, 5, 3), np.arange(32) % 2
    hp = dynhp.DynHP(budget, batch_size="memory" if budget else "dynamic")
    options = {"batch_size": 8, "epochs": 4, "verbose": 0, "callbacks": [hp]}
    if budget == "500KB":
        with pytest.raises(dynhp.BudgetError, match="with a batch of 8 needs"):
            model.fit(x, y, **options)
        return
    logs = model.fit(x, y, **options).history
    assert set(logs["batch_size"]) == {8} and hp.on_target
    assert dynhp.find_groups(model).prunable_share <= 1.0  # states are no parameters


class Enlarged(L.Layer):
    """Says of its lengths only that they are open, as layers written for any image do."""

    def call(self, x):
        rows, columns = keras.ops.shape(x)[1:3]
        return keras.ops.reshape(x, (-1, 2 * rows, 2 * columns, x.shape[-1] // 4))

    def compute_output_shape(self, shape):
        return (shape[0], None, None, shape[-1] // 4)


@pytest.mark.parametrize("side", [None, 6])
def test_a_layer_that_leaves_open_what_its_inputs_fix(side):
    inputs = keras.Input((side, side, 1))
    x = L.Conv2D(8, 3, padding="same")(L.Conv2D(16, 3, padding="same")(inputs))
    model = keras.Model(inputs, L.Conv2D(1, 1)(Enlarged()(x)))
    model.compile("adam", "mse")
    before = model.count_params()
    hp = dynhp.DynHP("40MB", target=dynhp.Target(compression=2))
    logs = model.fit(
        np.ones((8, 6, 6, 1)), np.ones((8, 12, 12, 1)), epochs=3, verbose=0, callbacks=[hp]
    ).history
    assert model.count_params() <= before / 2
    assert 0 < logs["train_memory"][-1] < 40e6
