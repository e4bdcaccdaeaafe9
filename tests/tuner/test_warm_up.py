"""The beginning that trials have in common is trained once, and that changes nothing."""

import keras
import keras_tuner
import numpy as np

import keras_dynhp as dynhp
from keras_dynhp.callbacks.dynhp import DynHP
from keras_dynhp.schedules import Cubic
from keras_dynhp.tuner import PruningHyperModel
from keras_dynhp.tuner.warm_up import warm_up_folder

from .conftest import build_model

SEARCH = {"compression": [2, 4], "start": 0.5, "end": 0.8, "batch_size": "fixed"}


class Counting(PruningHyperModel):
    """Notes with which epoch each trial's training began."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.begun = []

    def _branched(self, *args):
        kwargs = super()._branched(*args)
        self.begun.append(kwargs.get("initial_epoch", 0))
        return kwargs


def weights(tuner):
    trials = sorted(tuner.oracle.trials.values(), key=lambda trial: trial.trial_id)
    return [weight for trial in trials for weight in tuner.load_model(trial).get_weights()]


def test_branches_equal_trials_from_the_beginning(grid, data):
    found = []
    for share in (True, False):
        hypermodel = Counting(build_model, SEARCH, share_warm_up=share)
        tuner = grid(hypermodel, project=f"share_{share}")
        tuner.search(**data, epochs=6, shuffle=False, verbose=0)
        assert hypermodel.begun == ([0, 3] if share else [0, 0])
        found.append(weights(tuner))
    assert len(found[0]) == 12
    for one, other in zip(*found):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_what_trials_must_have_in_common(data):
    def folder(x=data["x"], rate=0.01, batch_size=32, searched=1, **settings):
        keras.utils.clear_session()
        model = build_model()
        model.optimizer.learning_rate = rate
        hp = keras_tuner.HyperParameters()
        hp.Fixed("searched", searched)
        hp.Fixed("dynhp/compression", settings.get("target", 100))
        hp.Fixed("tuner/epochs", settings.pop("epochs", 3))
        settings["target"] = dynhp.Target(params=settings.get("target", 100))
        fit = {"batch_size": batch_size, "epochs": 3, "callbacks": [object()]}
        return warm_up_folder("p", model, DynHP(**settings), hp, ((x, data["y"]), fit))

    first = folder()
    for same in ({"target": 50}, {"schedule": Cubic(0.3, 0.4)}, {"epochs": 9}):
        assert folder(**same) == first, same
    for other in (
        {"x": data["x"] + 1},
        {"x": data["x"][:50]},
        {"rate": 0.02},
        {"batch_size": 16},
        {"searched": 2},
        {"criterion": "magnitude"},
        {"budget": "9MB"},
        {"prune_inputs": True},
    ):
        assert folder(**other) != first, other
