"""The accuracy guard: what costs too much is undone."""

import keras
import numpy as np
import pytest
from half_dead import data, network

import keras_dynhp as dynhp
from keras_dynhp.callbacks.guard import AccuracyGuard

X, Y = data()


class Script(keras.callbacks.Callback):
    """Gives each epoch the metric it is told: the guard then acts on a known course."""

    place_among_callbacks = -2  # before the pruner

    def __init__(self, values):
        super().__init__()
        self.values = values

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = self.values[epoch]


def guarded(patience=1, schedule="cubic", max_drop=0.1, **options):
    hp = dynhp.DynHP(
        target=dynhp.Target(params=60),
        schedule=schedule,
        batch_size="fixed",
        max_drop=max_drop,
        monitor="val_loss",
        **options,
    )
    hp._guard.patience = patience
    return hp


def compiled(rate=0.01):
    model = network()
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), "mse")
    return model


def fit(values, hp, *more, model=None):
    model = model or compiled()
    fitted = model.fit(
        *(X, Y),
        epochs=len(values),
        verbose=0,
        shuffle=False,
        callbacks=[Script(values), hp, *more],
        validation_data=(X, Y),
    )
    return model, fitted.history


def quarter_at_each_of(epochs):
    return lambda progress: min(1.0, round(progress * epochs) * 0.25)


def asked_of(hp):
    """The fractions at which the callback prunes, from now on."""
    fractions, own = [], hp._guard.before_prune

    def noting(fraction, engine):
        fractions.append(own(fraction, engine))
        return fractions[-1]

    hp._guard.before_prune = noting
    return fractions


def test_a_drop_that_does_not_recover_is_undone_and_steps_are_halved():
    hp = guarded(patience=1, schedule=quarter_at_each_of(8))
    fractions = asked_of(hp)
    model, history = fit([1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0], hp)
    # Epoch 3 is bad: nothing. Epoch 4 is the second bad one: back to before 50%. Then a good one,
    # and on by half of what had been too much.
    # Nothing was on trial in the good one, so that is the first trial of many.
    np.testing.assert_allclose(fractions, [0.25, 0.5, 0.5, 0.25, 0.25, 0.375, 0.5, 0.625])
    params = history["params"]
    assert params[1] < params[0] and params[2] == params[1]
    assert params[3] > params[2] > params[-1] == model.count_params()
    [note] = [note for note in hp.report.notes if "undone" in note]
    assert "Epoch 4: val_loss was more than 0.1 worse than 1 for 2 epochs" in note
    assert "(from 25% to 50% of the way to the target) was undone; pruning goes on" in note


def test_the_undone_network_is_that_of_before():
    model = compiled(rate=0.0)  # nothing moves but by pruning
    before = [variable.numpy() for variable in model.trainable_variables]
    sizes = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: sizes.append(model.count_params())
    )
    hp = guarded(patience=0, schedule=lambda progress: float(progress > 0.5))
    fit([1.0, 1.0, 9.0], hp, note, model=model)
    assert sizes[0] == 403 and sizes[1] <= 60 and sizes[2] == 403
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert hp.report.after["params"] == 403
    # The disk and the step are clean, and training goes on.
    assert hp._guard._folder is None and hp._guard._memory is None
    model.fit(X, Y, verbose=0)


def test_a_short_drop_is_waited_out():
    hp = guarded(patience=2, schedule=quarter_at_each_of(6))
    fractions = asked_of(hp)
    _, history = fit([1.0, 1.0, 2.0, 2.0, 1.0, 1.0], hp)
    np.testing.assert_allclose(fractions, [0.25, 0.5, 0.5, 0.5, 0.5, 1.0])
    assert history["params"][3] == history["params"][2] == history["params"][1]
    assert "undone" not in str(hp.report)


def test_trials_that_cost_too_much_become_gentler_until_pruning_stops():
    hp = guarded(patience=0, schedule=lambda progress: float(progress > 0.06))
    trials, on_trial = [], hp._guard.on_trial
    hp._guard.on_trial = lambda fraction: trials.append(on_trial(fraction)) or trials[-1]
    # Every epoch in which neurons are on trial is a bad one.
    model, history = fit([1.0] + [2.0, 1.0] * 7 + [1.0, 1.0], hp)
    expected = [0.0] + [x for power in range(7) for x in (0.5**power, 0.0)]
    np.testing.assert_allclose(trials, expected + [0.0, 0.0])
    assert set(history["params"]) == {403} and model.count_params() == 403
    assert hp._guard.has_stopped and not hp.on_target
    assert "steps have become too small to go on" in str(hp.report)
    assert len(hp.report.notes) == 7


def test_a_drop_with_nothing_to_undo_waits():
    hp = guarded(patience=1, schedule=lambda progress: float(progress > 0.9))
    _, history = fit([1.0, 2.0, 2.0, 2.0], hp)
    assert set(history["params"]) == {403}
    assert "for 2 epochs, so nothing more is pruned until it recovers" in str(hp.report)


def test_as_a_user_writes_it():
    """Accuracy is better higher; the default monitor; what pruning costs is really seen."""
    classes = np.argmax(Y, axis=1)
    model = network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    model.fit(X, classes, epochs=40, verbose=0)
    full = model.evaluate(X, classes, verbose=0)[1]
    # A target that leaves next to nothing cannot be reached within a point of accuracy.
    hp = dynhp.DynHP(target=dynhp.Target(params=23), batch_size="fixed", max_drop=0.01)
    history = model.fit(
        X, classes, epochs=8, verbose=0, callbacks=[hp], validation_data=(X, classes)
    ).history
    assert hp._guard._best == max(history["val_accuracy"]) >= full - 0.01
    assert model.evaluate(X, classes, verbose=0)[1] >= hp._guard._best - 0.1
    assert not hp.on_target and hp.report.notes


def test_config_goes_round():
    hp = dynhp.DynHP(max_drop=0.02, monitor="val_loss")
    again = dynhp.DynHP.from_config(hp.get_config())
    assert again.get_config() == hp.get_config()
    assert (again._guard.max_drop, again._guard.monitor) == (0.02, "val_loss")
    assert dynhp.DynHP.from_config(dynhp.DynHP().get_config())._guard is None


def test_another_model_begins_anew():
    hp = guarded(schedule=quarter_at_each_of(2))
    fit([1.0, 1.0], hp)
    fractions = asked_of(hp)
    fit([5.0, 5.0], hp)  # bad against the first model's epochs, but it is another one
    np.testing.assert_allclose(fractions, [0.25, 0.5])


def test_resume_keeps_the_guard_and_its_network(tmp_path):
    class Crash(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                raise KeyboardInterrupt

    def run(folder, *more):
        keras.utils.set_random_seed(0)
        hp = guarded(patience=1, schedule=quarter_at_each_of(5))
        backup = dynhp.callbacks.BackupAndRestore(folder)
        _, history = fit([1.0, 1.0, 2.0, 2.0, 1.0], hp, *more, backup)
        return history, hp

    whole, one = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", Crash())  # in the middle of the bad epochs
    killed, other = run(tmp_path / "killed")
    assert "was undone" in str(one.report) and str(one.report) == str(other.report)
    np.testing.assert_allclose(killed["loss"], whole["loss"], rtol=1e-6)
    assert killed["params"] == whole["params"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_drop": -0.1}, ValueError, "max_drop=-0.1"),
        ({"max_drop": float("nan")}, ValueError, "max_drop=nan"),
        ({"max_drop": True}, TypeError, "max_drop=True"),
        ({"max_drop": "1%"}, TypeError, "max_drop='1%'"),
        ({"max_drop": 0.1, "monitor": None}, TypeError, "monitor=None"),
    ],
)
def test_arguments_that_make_no_sense(arguments, error, message):
    with pytest.raises(error, match=message):
        dynhp.DynHP(**arguments)
    with pytest.raises(ValueError, match="patience"):
        AccuracyGuard(0.1, patience=-1)


def test_metrics_that_will_not_be_there_are_refused_before_training():
    for monitor, options, message in [
        ("val_loss", {}, "Pass `validation_data`"),
        ("accuracy", {}, "not among the metrics of this fit. Received: loss, mae"),
        ("val_acc", {"validation_data": (X, Y)}, "Received: loss, mae, val_loss, val_mae"),
    ]:
        model, hp = network(), dynhp.DynHP(max_drop=0.1, monitor=monitor)
        model.compile("adam", "mse", metrics=["mae"])
        with pytest.raises(ValueError, match=message):
            model.fit(X, Y, verbose=0, callbacks=[hp], **options)
        assert int(model.optimizer.iterations) == 0


def test_a_training_step_of_the_users_own_tells_after_an_epoch():
    class Own(keras.Model):
        def train_step(self, batch):
            return {"accuracy": super().train_step(batch)["accuracy"] * 10}

    model = network(cls=Own)
    model.compile("adam", "mse", metrics=["accuracy"])
    hp = dynhp.DynHP(max_drop=10.0, monitor="accuracy")
    history = model.fit(X, Y, epochs=1, verbose=0, callbacks=[hp]).history
    assert hp._guard._best == history["accuracy"][0]
    hp = dynhp.DynHP(max_drop=0.1, monitor="loss")
    with pytest.raises(ValueError, match="not among the metrics"):
        model.fit(X, Y, verbose=0, callbacks=[hp])


def test_a_metric_whose_better_side_is_not_known():
    model = network()
    model.compile("adam", "mse", metrics=[lambda y, p: keras.ops.mean(p)])
    hp = dynhp.DynHP(max_drop=0.1, monitor="lambda")
    with pytest.raises(ValueError, match="better high or low"):
        model.fit(X, Y, verbose=0, callbacks=[hp])
    assert int(model.optimizer.iterations) == 0
