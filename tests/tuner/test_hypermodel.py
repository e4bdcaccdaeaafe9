import pathlib

import keras
import keras_tuner
import numpy as np
import pytest

import keras_dynhp as dynhp
from keras_dynhp.tuner import PruningHyperModel
from keras_dynhp.tuner.rates import FullNetwork
from keras_dynhp.tuner.scoring import MEASURED

from .conftest import FULL, build_model

TUNERS = {
    "RandomSearch": {"max_trials": 2},
    "BayesianOptimization": {"max_trials": 3, "num_initial_points": 2},
    "GridSearch": {"max_trials": 2},
    "Hyperband": {"max_epochs": 3, "factor": 3},
}


@pytest.mark.sweep("Hyperband")
@pytest.mark.parametrize("kind", TUNERS)
def test_every_tuner_gives_back_the_pruned_networks(kind, tmp_path, data):
    def make():
        return getattr(keras_tuner, kind)(
            PruningHyperModel(build_model, ["compression", "start"], target_range=(2, 5)),
            objective="val_loss",
            directory=tmp_path,
            seed=0,
            **TUNERS[kind],
        )

    make().search(**data, epochs=4, verbose=0)
    tuner = make()  # what was searched comes from the disk alone
    trials = [t for t in tuner.oracle.trials.values() if t.status == "COMPLETED"]
    assert len(trials) == len(tuner.oracle.trials) >= 2
    best, trial = tuner.get_best_models(1)[0], tuner.oracle.get_best_trials(1)[0]
    compression = trial.hyperparameters.get("dynhp/compression")
    assert best.count_params() <= FULL / compression
    assert best.count_params() == trial.metrics.get_last_value("params")
    again = best.evaluate(*data["validation_data"], verbose=0)
    np.testing.assert_allclose(again, trial.metrics.get_last_value("val_loss"), rtol=1e-5)
    continued = [t for t in trials if "tuner/trial_id" in t.hyperparameters.values]
    assert bool(continued) == (kind == "Hyperband")
    for trial in continued:  # a pruned network is trained on, and pruned no further
        before = tuner.oracle.trials[trial.hyperparameters.values["tuner/trial_id"]]
        params = [t.metrics.get_last_value("params") for t in (before, trial)]
        assert params[0] == params[1] == tuner.load_model(trial).count_params()


def test_metrics_are_those_of_the_finished_network(grid, data):
    tuner = grid(PruningHyperModel(build_model, {"compression": [8]}, measure=["flash", "ram"]))
    tuner.search(**data, epochs=4, verbose=0)
    (trial,) = tuner.oracle.trials.values()
    metrics = {name: trial.metrics.get_last_value(name) for name in trial.metrics.metrics}
    model = tuner.get_best_models()[0]
    assert metrics["params"] == model.count_params() <= FULL / 8
    assert metrics["macs"] == dynhp.count_macs(model)
    assert metrics["missed"] == 0
    assert 500 < metrics["flash"] < 10_000 and 500 < metrics["ram"] < 10_000
    assert metrics["train_memory"] > 4 * metrics["params"]


def test_what_does_not_fit_the_budget_is_a_failed_trial(grid, data):
    def build(hp):
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(hp.Choice("units", [16, 20_000]), "relu"),
                keras.layers.Dense(2),
            ]
        )
        model.compile("adam", "mse")
        return model

    tuner = grid(PruningHyperModel(build, {"compression": [2]}, budget="2.5MB"))
    tuner.search(**data, epochs=2, verbose=0)
    found = {t.hyperparameters.get("units"): t for t in tuner.oracle.trials.values()}
    assert found[16].status == "COMPLETED"
    assert found[20_000].status == "FAILED"
    assert "BudgetError" in found[20_000].message


class StopsEarly(keras_tuner.HyperModel):
    """A user's own HyperModel, with a `fit` of its own that may end before pruning has."""

    def build(self, hp):
        return build_model()

    def fit(self, hp, model, *args, **kwargs):
        if hp.Boolean("stops"):
            stop = keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", True)
            )
            kwargs["callbacks"] = [*kwargs["callbacks"], stop]
        return model.fit(*args, epochs=4, **kwargs)


def test_own_fit_and_a_missed_target(grid, data):
    tuner = grid(PruningHyperModel(StopsEarly(), {"compression": [4]}))
    tuner.search(**data, verbose=0)
    trials = list(tuner.oracle.trials.values())
    assert [t.status for t in trials] == ["COMPLETED"] * 2
    (missed,) = [t for t in trials if t.hyperparameters.get("stops")]
    (met,) = [t for t in trials if not t.hyperparameters.get("stops")]
    assert missed.metrics.get_last_value("params") == FULL
    assert missed.metrics.get_last_value("missed") == pytest.approx(3, rel=0.01)
    assert missed.score > 100 > met.score
    assert 0 < missed.metrics.get_last_value(MEASURED + "val_loss") < 100
    assert tuner.oracle.get_best_trials()[0] is met


def test_a_file_that_is_too_large_is_scored_as_such(grid, data, tmp_path):
    """Training ends with a TargetError, the search goes on."""
    full = dynhp.export_tflite(build_model(), tmp_path / "full.tflite", "int8", data["x"])
    limit = int(0.9 * full.flash_bytes)
    hypermodel = PruningHyperModel(
        StopsEarly(), {"compression": [1.1]}, limits=dynhp.Target(flash=limit)
    )
    tuner = grid(hypermodel)
    tuner.search(**data, verbose=0)
    trials = list(tuner.oracle.trials.values())
    assert [t.status for t in trials] == ["COMPLETED"] * 2
    (missed,) = [t for t in trials if t.hyperparameters.get("stops")]
    assert missed.metrics.get_last_value("flash") > limit
    assert missed.metrics.get_last_value("missed") > 0
    (met,) = tuner.oracle.get_best_trials()
    assert met.metrics.get_last_value("flash") <= limit and met is not missed


def test_a_fit_that_drops_the_callbacks_is_an_error(grid, data):
    class Drops(StopsEarly):
        def fit(self, hp, model, *args, callbacks=None, **kwargs):
            return model.fit(*args, **kwargs)

    tuner = grid(PruningHyperModel(Drops()))
    with pytest.raises(keras_tuner.errors.FatalValueError, match="hand `callbacks`"):
        tuner.search(**data, verbose=0)


def test_executions_keep_the_best_finished_network(grid, data):
    tuner = grid(PruningHyperModel(build_model, {"compression": [3]}), executions_per_trial=2)
    tuner.search(**data, epochs=3, verbose=0)
    assert tuner.get_best_models()[0].count_params() <= FULL / 3


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"build_model": 3}, TypeError),
        ({"search": ["speed"]}, ValueError),
        ({"search": ["params", "macs"]}, ValueError),
        ({"target_range": (5, 2)}, ValueError),
        ({"target_range": (0.5, 2)}, ValueError),
        ({"search": ["flash"]}, ValueError),
        ({"search": ["rates"], "target_range": (0.5, 1.0)}, ValueError),
        ({"search": ["rates", "prune_inputs"]}, ValueError),
        ({"search": {"start": (0.1, 0.6), "end": (0.5, 0.9)}}, ValueError),
        ({"limits": 10}, TypeError),
        ({"measure": ["watts"]}, ValueError),
    ],
)
def test_settings_that_make_no_sense(arguments, error):
    with pytest.raises(error):
        PruningHyperModel(**{"build_model": build_model, **arguments})


def test_settings_become_arguments_of_the_callback():
    hypermodel = PruningHyperModel(
        build_model,
        {
            "flash": ("8KB", "64KB"),
            "criterion": ["magnitude"],
            "schedule": "linear",
            "start": (0.1, 0.2),
            "end": [0.6],
            "round_to": 4,
        },
        limits=dynhp.Target(compression=2, flash="10KB"),
    )
    hp = keras_tuner.HyperParameters()
    model = hypermodel.build(hp)
    assert {h.name: h.default for h in hp.space} == {
        "dynhp/flash": 8192,
        "dynhp/criterion": "magnitude",
        "dynhp/start": 0.1,
        "dynhp/end": 0.6,
    }
    hp.values["dynhp/flash"] = 65536
    pruner = hypermodel.callback(hp, FullNetwork.of(model))
    assert pruner.target == dynhp.Target(params=FULL // 2, flash=10240)
    assert (pruner.schedule.start, pruner.schedule.end, pruner.round_to) == (0.1, 0.6, 4)
    assert type(pruner.schedule).__name__ == "Linear"
    assert type(pruner.criterion).__name__ == "Magnitude"


def test_a_rate_for_each_group(grid, data):
    """Searched as they are, each group ends with the width that its own rate says."""
    hypermodel = PruningHyperModel(
        build_model, {"rates": {"first": [0.25, 0.875], "second": [0.5]}, "start": 0.3}
    )
    tuner = grid(hypermodel)
    tuner.search(**data, epochs=6, verbose=0)
    widths = {}
    for trial in tuner.oracle.trials.values():
        model = tuner.load_model(trial)
        assert trial.metrics.get_last_value("missed") == 0
        widths[trial.hyperparameters.get("dynhp/rate_1")] = [layer.units for layer in model.layers]
        assert trial.hyperparameters.get("dynhp/rate_2") == 0.5
    assert widths == {0.25: [24, 8, 2], 0.875: [4, 8, 2]}
    (warm_up,) = (tmp for tmp in (tuner_project(tuner) / "warm_up").iterdir())  # is shared
    assert {path.name for path in warm_up.iterdir()} == {"after_1.npz"}
    with pytest.raises(ValueError, match="groups of the network are first, second"):
        PruningHyperModel(build_model, {"rates": {"third": [0.5]}}).build(
            keras_tuner.HyperParameters()
        )


def tuner_project(tuner):
    return pathlib.Path(tuner.project_dir)


def test_several_objectives_at_once(tmp_path, data):
    """What Keras Tuner adds up into one: here, half the parameters are worth as much as a loss."""
    tuner = keras_tuner.RandomSearch(
        PruningHyperModel(build_model, {"compression": [2, 8]}),
        objective=[
            keras_tuner.Objective("val_loss", "min"),
            keras_tuner.Objective("params", "min"),
        ],
        max_trials=2,
        directory=tmp_path,
    )
    tuner.search(**data, epochs=3, verbose=0)
    best = tuner.oracle.get_best_trials(1)[0]
    assert best.hyperparameters.get("dynhp/compression") == 8
    values = [best.metrics.get_last_value(name) for name in ("val_loss", "params")]
    assert best.score == pytest.approx(sum(values))
    assert tuner.get_best_models()[0].count_params() == values[1]
