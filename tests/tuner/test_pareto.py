import keras_tuner
import pytest

from keras_dynhp.tuner import ParetoFront

from .conftest import build_model

# accuracy, flash, ram, missed
TRIALS = [
    (0.90, 40_000, 9_000, 0),
    (0.95, 60_000, 8_000, 0),
    (0.85, 20_000, 9_500, 0),
    (0.84, 30_000, 9_900, 0),  # beaten by the one before
    (0.99, 10_000, 1_000, 0.5),  # missed its target
    (0.97, 90_000, 20_000, 0),
]


@pytest.fixture
def tuner(tmp_path):
    """Keras Tuner's own records of trials, without the training."""
    tuner = keras_tuner.RandomSearch(
        lambda hp: build_model() if hp.Int("units", 1, 10**6) else None,
        objective=keras_tuner.Objective("val_accuracy", "max"),
        max_trials=len(TRIALS) + 1,
        directory=tmp_path,
    )
    for values in TRIALS:
        trial = tuner.oracle.create_trial("tuner0")
        metrics = dict(zip(("val_accuracy", "flash", "ram", "missed"), values))
        tuner.oracle.update_trial(trial.trial_id, metrics)
        trial.status = "COMPLETED"
        tuner.oracle.end_trial(trial)
    failed = tuner.oracle.create_trial("tuner0")
    failed.status = "FAILED"
    tuner.oracle.end_trial(failed)
    return tuner


def test_front_of_one_cost(tuner):
    front = ParetoFront(tuner, "flash")
    assert [one.quality for one in front] == [0.85, 0.90, 0.95, 0.97]
    assert [one.quality for one in front.others] == [0.84]


def test_front_of_two_costs(tuner):
    front = ParetoFront(tuner, ("ram", "flash"))
    assert [one.quality for one in front] == [0.95, 0.90, 0.85, 0.97]  # by ram
    assert front.best(flash="50KB").quality == 0.90
    assert front.best(flash="64KB", ram=8_500).quality == 0.95
    assert front.best().quality == 0.97
    with pytest.raises(ValueError, match=r"least of each are flash <= 19.5 KB"):
        front.best(flash="1KB")
    with pytest.raises(ValueError, match="has the costs"):
        front.best(macs=1)


def test_a_quality_that_is_to_be_small(tuner):
    tuner.oracle.objective = keras_tuner.Objective("val_accuracy", "min")
    front = ParetoFront(tuner, "flash")
    assert [one.quality for one in front] == [0.85, 0.84]
    assert front.best(flash="40KB").quality == 0.84


def test_table(tuner):
    lines = str(ParetoFront(tuner, ("flash", "ram"))).splitlines()
    assert lines[0].split() == ["trial", "val_accuracy", "flash", "ram"]
    assert lines[1].split()[1:] == ["0.8500", "19.5", "KB", "9.3", "KB"]
    assert len(lines) == 5


def test_plot_shows_every_network(tuner, tmp_path):
    figure = ParetoFront(tuner, ("flash", "ram")).plot(tmp_path / "front.png")
    panels = figure.axes
    assert [panel.get_xlabel() for panel in panels] == ["flash, KB", "ram, KB"]
    beaten, front, _ = panels[0].lines
    assert len(beaten.get_xdata()) == 1 and len(front.get_xdata()) == 4
    assert list(panels[0].lines[2].get_ydata()) == [0.85, 0.90, 0.95, 0.97]
    assert list(panels[1].lines[2].get_ydata()) == [0.95, 0.95, 0.95, 0.97]
    assert (tmp_path / "front.png").stat().st_size > 5_000


def test_what_was_not_measured(tuner):
    with pytest.raises(ValueError, match='measure=\\("flash", "ram"\\)'):
        ParetoFront(tuner, "watts")


def test_nothing_finished(tmp_path):
    tuner = keras_tuner.RandomSearch(
        lambda hp: build_model(), objective="val_loss", max_trials=1, directory=tmp_path
    )
    with pytest.raises(ValueError, match="No trial has finished"):
        ParetoFront(tuner)
