"""How often it is pruned: at the ends of intervals, with what was on trial all through them."""

import keras
import pytest
from half_dead import data, live_params, network, optimizer

import keras_dynhp as dynhp
from keras_dynhp.schedules import Schedule

X, Y = data()
TARGET = dynhp.Target(params=live_params())


class Straight(Schedule):
    """All the way through training: what is due grows in each epoch."""

    def __init__(self):
        super().__init__(0.0, 1.0)

    def curve(self, progress):
        return progress


class Watch(keras.callbacks.Callback):
    """Notes the epochs at whose beginning neurons were put on trial."""

    def __init__(self, pruner):
        super().__init__()
        self.pruner, self.trials, self._trial = pruner, [], None

    def on_epoch_begin(self, epoch, logs=None):
        trial = self.pruner._engine._trial
        if trial is not self._trial and trial is not None:
            self.trials.append(epoch)
        self._trial = trial


def pruned_after(hp, epochs):
    model = network()
    model.compile(optimizer(), "mse", metrics=["mae"])
    watch = Watch(hp)
    model.fit(X, Y, batch_size=40, epochs=epochs, verbose=0, callbacks=[hp, watch])
    assert hp.on_target
    return [e["epoch"] + 1 for e in hp.report.epochs if e["removed"]], watch.trials


@pytest.mark.parametrize("every", [1, 3])
def test_every_so_many_epochs_and_after_the_last(every):
    """What the schedule leaves to the last epoch goes then, wherever in an interval that is."""
    hp = dynhp.PruneAndRebuild(TARGET, schedule=Straight(), every=every)
    pruned, trials = pruned_after(hp, 7)
    assert pruned == {1: [2, 3, 4, 5, 6, 7], 3: [6, 7]}[every]
    # An interval's end has to tell what neurons are worth before any can be put on trial.
    assert trials == {1: [1, 2, 3, 4, 5, 6], 3: [3, 6]}[every]
