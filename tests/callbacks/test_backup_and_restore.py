"""A run killed at any moment goes on, and ends with the numbers of one that was not killed."""

import concurrent.futures
import json
import pathlib

import keras
import numpy as np
import pytest
from half_dead import data, live_params, network, steps

import keras_dynhp as dynhp
from keras_dynhp.callbacks import BackupAndRestore
from keras_dynhp.saving.files import read_tree, replace_file, write_tree

X, Y = data()


@pytest.mark.timeout(900)  # some fifty short trainings: two minutes where nothing else runs
@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_so_many_moments(kills, tmp_path, run_alone):
    """Between, in the middle of epochs, of saves and of rebuilds; every number must be equal."""
    program = pathlib.Path(__file__).parent / "crash_program.py"

    def run(kind):
        folder = tmp_path / kind
        folder.mkdir()
        return run_alone(program, folder, kind, kills, timeout=880)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        for printed in pool.map(run, ["arrays", "stream"]):
            runs = json.loads(printed)
            places = [place for place, killed, _ in runs if killed]
            assert len(places) == kills
            if kills == 10:  # three may all come before the first backup
                assert {"save", "rebuild"} <= set(places)
                assert any(epoch is not None for _, _, epoch in runs)


def fit(folder, *more, model=None, epochs=4):
    keras.utils.set_random_seed(0)
    if model is None:
        model = network()
        model.compile(keras.optimizers.Adam(0.01), "mse")
    hp = dynhp.PruneAndRebuild(dynhp.Target(params=live_params()), schedule=steps)
    backup = BackupAndRestore(folder)
    history = model.fit(
        X, Y, epochs=epochs, batch_size=10, verbose=0, callbacks=[backup, hp, *more]
    )
    return history, hp


class Crash(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


def test_going_on_in_the_same_process(tmp_path):
    whole, _ = fit(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "backup", Crash(3))
    history, hp = fit(tmp_path / "backup")
    assert history.epoch == [0, 1, 2, 3]
    np.testing.assert_allclose(history.history["loss"], whole.history["loss"], rtol=1e-6)
    assert [entry["epoch"] for entry in hp.report.epochs] == [0, 1, 2, 3]
    assert history.model.count_params() == live_params()
    # It ended, so nothing is left, and a second fit begins with the first epoch.
    assert list((tmp_path / "backup").iterdir()) == []
    again = history.model.fit(X, Y, epochs=2, verbose=0)
    assert again.epoch == [0, 1]


def test_a_backup_of_another_run_is_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, Crash(1))
    other = keras.Sequential([keras.Input((5,)), keras.layers.Dense(7), keras.layers.Dense(3)])
    other.compile("adam", "mse")
    with pytest.raises(ValueError, match="another network"):
        other.fit(
            X,
            Y,
            verbose=0,
            callbacks=[
                dynhp.PruneAndRebuild(dynhp.Target(compression=2)),
                BackupAndRestore(tmp_path),
            ],
        )
    with pytest.raises(ValueError, match="with a pruning callback"):
        other.fit(X, Y, verbose=0, callbacks=[BackupAndRestore(tmp_path)])
    model = network()
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="another optimizer"):
        fit(tmp_path, model=model)
    (tmp_path / "backup.npz").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="Delete it to begin afresh"):
        fit(tmp_path)
    with pytest.raises(ValueError, match="backup_dir"):
        BackupAndRestore("")


def test_a_file_is_the_old_one_or_the_new_one(tmp_path):
    path = tmp_path / "state.npz"
    write_tree(path, {"number": 1})

    def half(temporary):
        pathlib.Path(temporary).write_bytes(b"half a")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_file(path, half)
    assert read_tree(path) == {"number": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["state.npz"]
