"""Whatever `fit` is given works across a prune, and gives the numbers of plain training."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from half_dead import EPOCHS, compare, data, live_params, network, optimizer, steps

import keras_dynhp as dynhp
from keras_dynhp.batching import data as batching_data
from keras_dynhp.batching.data import FitData
from keras_dynhp.batching.sources import StreamSource
from keras_dynhp.callbacks import dynhp as callbacks_dynhp

X, Y = data()
VX, VY = X[:15] + 0.1, Y[:15]


def make():
    model = network()
    model.compile(optimizer(), "mse", metrics=["mae"], weighted_metrics=["mse"])
    return model


def fit(model, callbacks, x=X, y=Y, **options):
    keras.utils.set_random_seed(2)
    options = {"epochs": EPOCHS, "verbose": 0, **options}
    if isinstance(x, np.ndarray):
        options.setdefault("batch_size", 10)
    else:
        options.setdefault("shuffle", False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return model.fit(x, y, callbacks=callbacks, **options).history


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return -(-len(self.x) // 10)

    def __getitem__(self, index):
        part = slice(10 * index, 10 * index + 10)
        return self.x[part], self.y[part]


VALIDATION = {
    "arrays": lambda: (VX, VY),
    "arrays_and_weights": lambda: (VX, VY, np.linspace(0, 1, 15)),
    "dataset": lambda: tf.data.Dataset.from_tensor_slices((VX, VY)).batch(4),
    "py_dataset": lambda: Batches(VX, VY),
}


@pytest.mark.parametrize("kind", VALIDATION)
def test_validation_data(kind):
    plain, _ = compare(make, lambda m, c: fit(m, c, validation_data=VALIDATION[kind]()))
    assert len(plain["val_loss"]) == EPOCHS


def test_validation_split_frequency_and_batch_size():
    plain, _ = compare(
        make,
        lambda m, c: fit(
            m, c, validation_split=0.25, validation_freq=2, validation_batch_size=3, epochs=4
        ),
    )
    assert len(plain["val_loss"]) == 2


def test_class_and_sample_weights():
    classes = np.argmax(Y, axis=1)

    def make_classifier():
        model = network()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer(), loss, weighted_metrics=["accuracy"])
        return model

    compare(
        make_classifier, lambda m, c: fit(m, c, y=classes, class_weight={0: 0.1, 1: 1.0, 2: 3.0})
    )
    weights = np.linspace(0.0, 2.0, len(X))
    compare(make, lambda m, c: fit(m, c, sample_weight=weights))


def test_shuffle_gives_the_same_order():
    plain, _ = compare(make, lambda m, c: fit(m, c, shuffle=True), idle=0.0)
    ordered = fit(make(), [], shuffle=False)
    assert plain["loss"] != ordered["loss"]


@pytest.mark.parametrize("repeat", [False, True])
def test_steps_per_epoch(repeat):
    def dataset():
        given = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
        return given.repeat() if repeat else given

    # 10 batches: without repeating, three epochs of 3 steps.
    compare(make, lambda m, c: fit(m, c, x=dataset(), y=None, steps_per_epoch=3))


def test_initial_epoch_counts_in_the_schedule():
    model = make()
    history = model.fit(
        X, Y, initial_epoch=4, epochs=8, verbose=0, callbacks=[small(lambda p: float(p > 0.7))]
    )
    # Progress is epochs done of all 8, so epoch 6 (of 1 to 8) is the first past 0.7.
    assert history.epoch == [4, 5, 6, 7]
    assert [n == live_params() for n in history.history["params"]] == [False, True, True, True]


def small(schedule=steps):
    return dynhp.PruneAndRebuild(dynhp.Target(params=live_params()), schedule=schedule)


class Resizes(keras.callbacks.Callback):
    """Sets the batch size of each epoch, as a rule would."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes = sizes

    def on_train_begin(self, logs=None):
        self.data = FitData.attach(self.model)

    def on_epoch_begin(self, epoch, logs=None):
        self.data.set_batch_size(self.sizes[epoch])

    def on_train_end(self, logs=None):
        self.data.detach()


@pytest.mark.parametrize("sizes", [(5, 8, 20), (40, 7, 4)])
def test_batches_that_grow_and_shrink(sizes):
    def by_hand(model, callbacks):
        """An epoch of plain fit for each batch size."""
        histories = [fit(model, [], batch_size=size, epochs=1, shuffle=False) for size in sizes]
        return {"loss": [history["loss"][0] for history in histories]}

    plain_model, model = make(), make()
    plain = by_hand(plain_model, [])
    pruned = fit(model, [Resizes(sizes), small()], batch_size=10, shuffle=False)
    np.testing.assert_allclose(pruned["loss"], plain["loss"], rtol=1e-5)
    assert model.count_params() == live_params()
    assert int(model.optimizer.iterations) == sum(-(-len(X) // size) for size in sizes)


# ---- fits that follow each other, and bad input -------------------------------------------------


def test_two_pruning_callbacks_are_refused():
    model = make()
    with pytest.raises(ValueError, match="Two callbacks cannot prune one model"):
        fit(model, [small(), small()])
    assert int(model.optimizer.iterations) == 0


def test_fit_twice_goes_on_from_where_it_is():
    model, hp = make(), small(lambda p: 0.5 * (p > 0.5))
    first = fit(model, [hp], epochs=3)
    half = first["params"][-1]
    assert 155 < half < 403
    again = fit(model, [hp], epochs=3)
    assert again["params"] == [half] * 3
    assert hp.report.before["params"] == 403
    assert len(hp.report.epochs) == 6
    hp.schedule = steps
    assert fit(model, [hp], epochs=3)["params"][-1] == live_params()


def test_a_callback_is_used_again_for_another_model():
    hp = small()
    fit(make(), [hp])
    model = make()
    fit(model, [hp])
    assert model.count_params() == live_params()
    assert len(hp.report.epochs) == EPOCHS
    assert hp.report.before["params"] == 403


def test_after_an_interrupted_fit_the_next_goes_on():
    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if int(self.model.optimizer.iterations) == 6:
                raise KeyboardInterrupt

    model, hp = make(), small()
    with pytest.raises(KeyboardInterrupt):
        fit(model, [hp, Interrupt()])
    # While neurons were masked; a new callback takes over from the interrupted one.
    other = small()
    fit(model, [other])
    assert model.count_params() == live_params()
    assert "update_step" not in vars(model.optimizer)
    fit(model, [], epochs=1)


def test_weights_set_between_epochs_stay_set():
    class Set(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.get_layer("out").bias.assign([7.0, 7.0, 7.0])

    model = make()
    fit(model, [Set(), small()])
    np.testing.assert_array_equal(model.get_layer("out").bias, [7.0, 7.0, 7.0])


class Change(keras.callbacks.Callback):
    def __init__(self, change):
        super().__init__()
        self.change = change

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            self.change(self.model)


def test_a_model_changed_between_epochs_is_refused():
    def add_a_layer(model):
        model.pop()
        model.add(keras.layers.Dense(3))

    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(8), keras.layers.Dense(3)])
    model.compile("sgd", "mse")
    hp = dynhp.PruneAndRebuild(dynhp.Target(compression=2))
    with pytest.raises(ValueError, match="layers of the model were changed by something else"):
        fit(model, [hp, Change(add_a_layer)])
    with pytest.raises(ValueError, match="compiled again"):
        fit(make(), [small(), Change(lambda model: model.compile("sgd", "mse"))])
    # Between two fits both are fine.
    model.compile("sgd", "mse")
    assert fit(model, [hp], epochs=6)["params"][-1] <= 75 / 2


def test_a_loss_that_is_not_finite():
    model = network()
    model.compile(keras.optimizers.SGD(1e30), "mse")
    with pytest.raises(ValueError, match=r"scores of group .* are not finite"):
        fit(model, [small()])
    assert "update_step" not in vars(model.optimizer)
    model.predict(X, verbose=0)
    model.fit(X, Y, verbose=0)


def test_an_epoch_without_data_prunes_by_what_earlier_ones_told():
    def batches():
        for _ in range(2):
            yield X[:20], Y[:20]

    model, hp = make(), small(lambda p: float(p > 0.9))
    with pytest.warns(UserWarning, match="ran out of data"):
        model.fit(batches(), epochs=2, steps_per_epoch=2, shuffle=False, verbose=0, callbacks=[hp])
    assert model.count_params() == live_params()
    kernel = model.get_layer("first").kernel.numpy()
    assert kernel.shape == (5, 8) and np.abs(kernel).sum(axis=0).all()  # the dead ones went


def test_gradients_that_tell_nothing_prune_nothing():
    model, hp = network(), small()
    model.compile(keras.optimizers.SGD(0.01), lambda y, p: 0.0 * keras.ops.sum(p))
    fit(model, [hp])
    assert model.count_params() == 403
    assert "no gradient of a weight" in str(hp.report)


def test_an_optimizer_that_is_not_keras_s():
    class Own:
        learning_rate = 0.1

    model = make()
    model.optimizer = Own()
    with pytest.raises(TypeError, match=r"must be compiled with a keras\.optimizers\.Optimizer"):
        fit(model, [small()])


def test_an_own_training_step_without_the_models_optimizer_prunes_nothing():
    class Elsewhere(keras.Model):
        def train_step(self, batch):
            return {"loss": self.compute_loss(*batch, self(batch[0], training=True))}

    model, hp = network(cls=Elsewhere), small()
    model.compile("adam", "mse")
    model.fit(X, Y, epochs=3, verbose=0, callbacks=[hp])
    assert model.count_params() == 403
    assert "no step of 'adam" in str(hp.report)


BAD_MODELS = {
    "not compiled": (lambda: network(), ValueError, "compile"),
    "nothing to prune": (
        lambda: compiled(keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])),
        ValueError,
        "can be pruned",
    ),
    "subclassed": (lambda: compiled(Subclassed()), ValueError, "subclassed model"),
    "target out of reach": (
        lambda: compiled(network()),
        ValueError,
        "smallest reachable target is params=",
    ),
}


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, x):
        return self.dense(x)


def compiled(model):
    model.compile("adam", "mse")
    return model


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_bad_models_are_refused_before_training(kind):
    make_model, error, message = BAD_MODELS[kind]
    model = make_model()
    target = dynhp.Target(params=3) if kind == "target out of reach" else None
    with pytest.raises(error, match=message):
        fit(model, [dynhp.PruneAndRebuild(target)])
    if getattr(model, "optimizer", None) is not None:
        assert int(model.optimizer.iterations) == 0
        fit(model, [], epochs=1)


def test_nothing_is_worked_out_anew_that_stays_as_it_was(monkeypatch):
    """Every epoch needs an estimate and a pipeline; they change where shapes and batches do."""
    written, piped, widths = [], [], []

    class Counting(callbacks_dynhp.StepMemory):
        def __init__(self, *args, **kwargs):
            written.append(1)
            super().__init__(*args, **kwargs)

    class Counted(StreamSource):
        def _prepared(self, batches, batch_size):
            piped.append(batch_size)
            return super()._prepared(batches, batch_size)

    monkeypatch.setattr(callbacks_dynhp, "StepMemory", Counting)
    monkeypatch.setattr(batching_data, "StreamSource", Counted)
    model = make()
    hp = dynhp.DynHP(target=dynhp.Target(compression=2), batch_size="fixed", budget="1GB")
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(10)
    count = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda *_: widths.append(model.count_params())
    )
    fit(model, [hp, count], batches, None, epochs=6)
    assert 1 < len(set(widths)) < 6
    assert len(written) == len(set(widths))
    # The first pipeline begins with the batch that was looked at to learn the batch size.
    assert len(piped) <= 2
