"""Other callbacks beside ours, in any order."""

import csv
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from half_dead import data, live_params, network, optimizer, steps

import keras_dynhp as dynhp
from keras_dynhp.callbacks import BackupAndRestore, EarlyStopping, ModelCheckpoint
from keras_dynhp.pruning.proof import DeviceProof

X, Y = data()
FULL = 403
SMALL = dynhp.Target(params=live_params())


def make(given=None):
    model = network()
    model.compile(given or optimizer(), "mse", metrics=["mae"])
    return model


def pruner(**options):
    return dynhp.PruneAndRebuild(**{"target": SMALL, "schedule": steps, **options})


def fit(model, callbacks, **options):
    options = {"epochs": 4, "batch_size": 10, "verbose": 0, **options}
    return model.fit(X, Y, validation_data=(X, Y), callbacks=callbacks, **options).history


class Watch(keras.callbacks.Callback):
    """Notes what a callback after ours is shown."""

    def __init__(self):
        super().__init__()
        self.params_seen, self.keys, self.calls = [], [], []

    def on_train_begin(self, logs=None):
        self.calls.append("begin")

    def on_epoch_end(self, epoch, logs=None):
        self.params_seen.append((self.model.count_params(), logs["params"]))
        self.keys.append(sorted(logs))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_ours_is_first_wherever_it_stands(place):
    watch, other = Watch(), Watch()
    callbacks = [watch, other]
    callbacks.insert(place, pruner())
    model = make()
    history = fit(model, callbacks)
    for one in (watch, other):
        assert one.calls == ["begin"]
        assert [seen for seen, _ in one.params_seen] == [told for _, told in one.params_seen]
        assert one.params_seen[-1] == (live_params(), live_params())
        assert all(keys == one.keys[0] for keys in one.keys)
    assert {"neurons", "params"} < set(history)
    assert all(len(values) == 4 for values in history.values())


def test_a_callback_list_of_the_user():
    model, watch, hp = make(), Watch(), pruner()
    listed = keras.callbacks.CallbackList(
        [watch, hp], add_history=True, model=model, epochs=4, steps=4, verbose=0
    )
    fit(model, listed)
    assert watch.params_seen[-1] == (live_params(), live_params())
    fit(model, listed)  # goes on from there
    assert hp.report.before["params"] == FULL
    assert watch.params_seen[-4:] == 4 * [(live_params(), live_params())]


def test_it_concludes_on_the_network_that_the_others_leave(monkeypatch, tmp_path):
    proven = []
    monkeypatch.setattr(DeviceProof, "end", lambda self, model, _: proven.append(weights(model)))

    def weights(model):
        return [variable.numpy() for variable in model.weights]

    class Double(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            assert not proven
            self.model.set_weights([2 * value for value in self.model.get_weights()])

    model = make()
    fit(model, [pruner(), Double(), BackupAndRestore(tmp_path)])
    (seen,) = proven
    for value, proof in zip(weights(model), seen):
        np.testing.assert_array_equal(value, proof)


def test_csv_logger(tmp_path):
    path = tmp_path / "log.csv"
    fit(make(), [keras.callbacks.CSVLogger(path), pruner()])
    with open(path) as file:
        rows = list(csv.DictReader(file))
    assert {"epoch", "loss", "val_mae", "neurons", "params"} <= set(rows[0])
    assert [int(row["params"]) for row in rows] == [FULL] + 3 * [live_params()]


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    hp = dynhp.DynHP(target=SMALL, schedule=steps, batch_size="fixed")
    history = fit(make(), [keras.callbacks.TensorBoard(tmp_path), hp])

    def scalars(run):
        events = EventAccumulator(str(tmp_path / run), size_guidance={"tensors": 0})
        events.Reload()
        return {
            tag: [float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]
            for tag in events.Tags()["tensors"]
            if tag != "keras"  # the model itself
        }

    # Keras's own callback writes what is in the logs, ours the widths and the memory by kind.
    written = scalars("train")
    for name in ("neurons", "params", "batch_size", "train_memory"):
        assert written[f"epoch_{name}"] == [float(value) for value in history[name]]
    assert written["epoch_params"] == [FULL] + 3 * [live_params()]
    written = scalars("pruning")
    assert written["widths/first"] == [16.0, 8.0, 8.0, 8.0]
    assert written["widths/second"] == [12.0, 6.0, 6.0, 6.0]
    assert written["memory/optimizer"][0] > written["memory/optimizer"][-1] > 0


def test_reduce_lr_and_schedulers_keep_their_say():
    rates = [0.01, 0.005, 0.002, 0.001]
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch, _: rates[epoch])
    plain_model, model = make(), make()
    plain = fit(plain_model, [scheduler])
    scheduled = fit(model, [scheduler, pruner()])
    assert np.isclose(float(model.optimizer.learning_rate), rates[-1])
    np.testing.assert_allclose(scheduled["loss"], plain["loss"], rtol=1e-5)

    model = make()
    reduce = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=0, min_delta=1e9)
    fit(model, [reduce, pruner()])
    assert float(model.optimizer.learning_rate) < 0.01


@pytest.mark.parametrize("first", [True, False])
def test_swap_ema_weights(first):
    def run(*more):
        model = make(keras.optimizers.SGD(0.02, use_ema=True, ema_momentum=0.9))
        swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
        history = fit(model, [swap, *more] if first else [*more, swap])
        return model, history

    plain_model, plain = run()
    model, pruned = run(pruner())
    assert model.count_params() == live_params()
    np.testing.assert_allclose(pruned["val_loss"], plain["val_loss"], rtol=1e-4)
    np.testing.assert_allclose(
        model.predict(X, verbose=0), plain_model.predict(X, verbose=0), rtol=1e-3, atol=1e-4
    )


def test_terminate_on_nan_ends_without_an_error():
    model = make(keras.optimizers.SGD(1e30))
    hp = pruner()
    history = fit(model, [hp, keras.callbacks.TerminateOnNaN()])
    assert len(history["loss"]) == 1 and not np.isfinite(history["loss"][0])
    assert "pruned nothing" in str(hp.report)


def test_plain_model_checkpoint(tmp_path):
    model = make()
    full = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    weights = keras.callbacks.ModelCheckpoint(
        tmp_path / "{epoch}.weights.h5", save_weights_only=True
    )
    fit(model, [full, weights, pruner()])
    sizes = [keras.saving.load_model(tmp_path / f"{e}.keras").count_params() for e in (1, 4)]
    assert sizes == [FULL, live_params()]
    before = model.predict(X, verbose=0)
    again = keras.saving.load_model(tmp_path / "4.keras")
    np.testing.assert_allclose(again.predict(X, verbose=0), before, rtol=1e-5)
    assert int(again.optimizer.iterations) == 16
    for variable in model.weights:
        variable.assign(variable * 0)
    model.load_weights(tmp_path / "4.weights.h5")
    np.testing.assert_array_equal(model.predict(X, verbose=0), before)


CLASHES = {
    "EarlyStopping": lambda path: keras.callbacks.EarlyStopping("loss", restore_best_weights=True),
    "ModelCheckpoint": lambda path: keras.callbacks.ModelCheckpoint(
        path / "best.keras", save_best_only=True
    ),
    "BackupAndRestore": lambda path: keras.callbacks.BackupAndRestore(path / "backup"),
}


@pytest.mark.parametrize(("name", "first"), itertools.product(CLASHES, [True, False]))
def test_what_cannot_work_is_refused_before_training(name, first, tmp_path):
    model, other = make(), CLASHES[name](tmp_path)
    before = [variable.numpy() for variable in model.weights]
    with pytest.raises(ValueError, match=f"keras_dynhp.callbacks.{name}"):
        fit(model, [pruner(), other] if first else [other, pruner()])
    for variable, value in zip(model.weights, before):
        np.testing.assert_array_equal(variable, value)
    assert int(model.optimizer.iterations) == 0
    fit(model, [], epochs=1)  # still usable


def test_keras_early_stopping_without_restoring_is_allowed():
    history = fit(make(), [pruner(), keras.callbacks.EarlyStopping("loss", patience=1)])
    assert len(history["loss"]) == 4


def test_early_stopping_waits_for_the_target_and_restores_the_best():
    # Better at each epoch before pruning; after it training climbs, which spoils the network.
    def rate(epoch, _):
        return 0.01 if epoch < 4 else -0.01

    model, seen = make(keras.optimizers.SGD(0.01)), {}

    def note(epoch, logs):
        seen[epoch] = model.predict(X, verbose=0), model.count_params(), logs["val_loss"]

    stop = EarlyStopping(patience=2, restore_best_weights=True)
    callbacks = [
        stop,
        keras.callbacks.LearningRateScheduler(rate),
        pruner(schedule=lambda p: float(p >= 0.3)),
        keras.callbacks.LambdaCallback(on_epoch_end=note),
    ]
    history = fit(model, callbacks, epochs=9)
    assert seen[0][1] > live_params() == model.count_params()
    small = [epoch for epoch in seen if seen[epoch][1] == live_params()]
    best = min(small, key=lambda epoch: seen[epoch][2])
    assert stop.best_epoch == best
    assert len(history["loss"]) == best + 3 < 9
    np.testing.assert_array_equal(model.predict(X, verbose=0), seen[best][0])


def test_early_stopping_never_restores_a_network_over_the_target():
    model = make()
    # No epoch is better than the first, which is too large.
    stop = EarlyStopping("params", mode="max", patience=10, restore_best_weights=True)
    fit(model, [stop, pruner()])
    assert model.count_params() == live_params()
    assert stop.best_epoch > 0


@pytest.mark.parametrize("weights_only", [False, True])
def test_model_checkpoint_keeps_the_best_small_enough(tmp_path, weights_only):
    path = tmp_path / ("best.weights.h5" if weights_only else "best.keras")
    model = make()
    best = ModelCheckpoint(
        path, monitor="params", mode="max", save_best_only=True, save_weights_only=weights_only
    )
    fit(model, [best, pruner()])
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert best.best == live_params()
    if weights_only:
        model.load_weights(path)
    else:
        assert keras.saving.load_model(path).count_params() == live_params()


def test_model_checkpoint_of_every_epoch(tmp_path):
    fit(make(), [ModelCheckpoint(tmp_path / "{epoch}.keras"), pruner()])
    sizes = [keras.saving.load_model(tmp_path / f"{e}.keras").count_params() for e in (1, 4)]
    assert sizes == [FULL, live_params()]


def test_ours_work_without_a_pruner(tmp_path):
    model = make()
    stop = EarlyStopping("loss", mode="max", patience=1, restore_best_weights=True)
    fit(model, [stop, BackupAndRestore(tmp_path / "backup")])
    assert stop.best_epoch == 0
    assert not (tmp_path / "backup" / "backup.npz").exists()
