"""Averages of weights that come back from a trial."""

import keras
import numpy as np
import pytest

import keras_dynhp as dynhp
from keras_dynhp.pruning.engine import Engine

X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
Y = X[:, :2] * 3


def adam(**options):
    return keras.optimizers.Adam(0.01, **options)


@pytest.mark.parametrize(
    "wrap", [lambda optimizer: optimizer, keras.optimizers.LossScaleOptimizer], ids=["", "wrapped"]
)
@pytest.mark.parametrize("use_ema", [True, False])
def test_what_comes_back_has_the_average_it_had(use_ema, wrap):
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)]
    )
    model.compile(wrap(adam(use_ema=use_ema, ema_momentum=0.9)), "mse")
    kernel = model.layers[-1].kernel
    seen = []

    def average():
        inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        return np.array(inner._model_variables_moving_average[2]) if use_ema else None

    class Trial(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            target = dynhp.Target(compression=2)
            self.engine = Engine(self.model, target, dynhp.criteria.get("magnitude"))
            self.engine.watch()

        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                self.engine.prune(0.0)
                self.engine.mask_next(1.0)
                self.on_trial = np.array(kernel)
                self.rows = ~np.concatenate(list(self.engine._trial.masks.values()))
            if epoch == 1:
                seen.append((np.array(kernel), average()))
                self.engine.mask_next(0.0)
                seen.append((np.array(kernel), average()))
                self.engine.release()

    trial = Trial()
    model.fit(X, Y, batch_size=2, epochs=2, verbose=0, callbacks=[trial])
    (faded, faded_average), (back, average_now) = seen
    rows = trial.rows
    assert rows.any() and not rows.all()
    assert np.abs(faded[rows]).sum() < 0.5 * np.abs(trial.on_trial[rows]).sum()
    np.testing.assert_array_equal(back[rows], trial.on_trial[rows])
    np.testing.assert_array_equal(back[~rows], faded[~rows])
    if use_ema:
        np.testing.assert_array_equal(average_now[rows], trial.on_trial[rows])
        np.testing.assert_array_equal(average_now[~rows], faded_average[~rows])
