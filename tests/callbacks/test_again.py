"""What one fit leaves to the next: after an interruption, with the same callback, another model."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_dynhp as dynhp
from keras_dynhp.batching.rules import CABS

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(64, 8)).astype("float32")
Y = RANDOM.integers(0, 3, 64)
TARGET = dynhp.Target(compression=4)


def compiled(optimizer="adam", units=32):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), L.Dense(units, "relu"), L.Dense(3)])
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


class Interrupt(keras.callbacks.Callback):
    """Ctrl-C after ten steps, wherever that is noticed."""

    def __init__(self, where):
        super().__init__()
        setattr(self, where, self.interrupt)

    def interrupt(self, *_, logs=None):
        if self.model.optimizer.iterations >= 10:
            raise KeyboardInterrupt


@pytest.mark.sweep("DynHP|batch")
@pytest.mark.parametrize("callback", [dynhp.PruneAndRebuild, dynhp.DynHP])
@pytest.mark.parametrize("where", ["on_train_batch_end", "on_test_batch_end", "on_epoch_end"])
def test_an_interrupted_fit_leaves_nothing_in_the_training_step(callback, where):
    schedule = keras.optimizers.schedules.CosineDecay(0.01, 100)
    model = compiled(keras.optimizers.Adam(schedule))
    hp = callback(TARGET) if callback is dynhp.PruneAndRebuild else callback(target=TARGET)
    before = [np.asarray(v) for v in model.trainable_variables]
    with pytest.raises(KeyboardInterrupt):
        callbacks, validation = [hp, Interrupt(where)], (X[:8], Y[:8])
        model.fit(X, Y, 8, epochs=9, callbacks=callbacks, validation_data=validation, verbose=0)
    # Neurons on trial had faded to e^-1.25 of themselves: they are whole again.
    shares = [
        np.abs(v).mean() / np.abs(was).mean() for v, was in zip(model.trainable_variables, before)
    ]
    assert shares[2] > 0.8
    assert float(model.optimizer.learning_rate) == pytest.approx(
        float(schedule(model.optimizer.iterations))
    )
    twin = keras.models.clone_model(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    twin.compile(keras.optimizers.Adam(schedule), loss)
    twin.optimizer.build(twin.trainable_variables)
    twin.set_weights(model.get_weights())
    for old, new in zip(model.optimizer.variables, twin.optimizer.variables):
        new.assign(old)
    losses = [
        one.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0).history["loss"]
        for one in (model, twin)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_a_schedule_goes_on_where_the_fit_before_left_it():
    schedule = keras.optimizers.schedules.PolynomialDecay(0.1, 80, 0.0)
    model = compiled(keras.optimizers.SGD(schedule))
    rates = []
    seen = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: rates.append(float(model.optimizer.learning_rate))
    )
    hp = dynhp.DynHP(target=TARGET, batch_size="memory", budget="4MB")
    for first, last in ((0, 5), (5, 10)):
        model.fit(
            X, Y, batch_size=8, initial_epoch=first, epochs=last, callbacks=[hp, seen], verbose=0
        )
    assert model.history.history["batch_size"][-1] > 8
    np.testing.assert_allclose(rates, [0.1 - 0.01 * epoch for epoch in range(10)], atol=1e-6)


def test_another_model_begins_with_a_fresh_rule_and_budget():
    hp = dynhp.DynHP(target=TARGET, budget="4MB")
    compiled("sgd").fit(X, Y, batch_size=8, epochs=4, callbacks=[hp], verbose=0)
    rule, budget = hp.batch_size.get_state(), hp.budget
    assert rule != CABS().get_state()
    model = compiled("sgd", units=24)
    first = {}

    class Look(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            first.setdefault("rule", hp.batch_size.get_state())

    model.fit(X, Y, batch_size=8, callbacks=[hp, Look()], verbose=0)
    assert first["rule"] == CABS().get_state()
    assert hp.budget is not budget and hp.budget.limit == budget.limit


def test_a_schedule_may_look_its_rates_up_in_a_table():
    table = np.linspace(0.1, 0.0, 200).astype("float32")

    class Table(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return keras.ops.take(keras.ops.convert_to_tensor(table), step)

    model = compiled(keras.optimizers.SGD(Table()))
    hp = dynhp.DynHP(target=TARGET)
    model.fit(X, Y, batch_size=8, epochs=3, callbacks=[hp], verbose=0)
    assert float(model.optimizer.learning_rate) == pytest.approx(table[24])


def test_a_batch_larger_than_the_data_scales_no_rate():
    losses = []
    for batch_size in (64, 500):
        hp = dynhp.DynHP(target=TARGET, budget="4MB", batch_size=CABS(learning_rate="linear"))
        history = compiled("sgd").fit(
            X, Y, batch_size=batch_size, epochs=3, shuffle=False, callbacks=[hp], verbose=0
        )
        losses.append(history.history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)
