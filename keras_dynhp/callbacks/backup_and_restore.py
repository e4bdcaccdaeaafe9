"""BackupAndRestore: a killed run goes on from its last epoch."""

from __future__ import annotations

import copy
import os
import pathlib

import keras
import numpy as np

from keras_dynhp.callbacks.company import LAST, join, pruner_beside
from keras_dynhp.keras_state.callback_list import list_that_calls, start_at_epoch
from keras_dynhp.keras_state.fit import replay_data
from keras_dynhp.keras_state.random import get_random_state, set_random_state
from keras_dynhp.saving.files import read_tree, remove_leftovers, write_tree
from keras_dynhp.saving.networks import get_values, set_values

__all__ = ["BackupAndRestore"]


class BackupAndRestore(keras.callbacks.Callback):
    """Saves everything a run needs at the end of each epoch, and goes on from there after a crash.

    Run the same program again: it builds the full network, and `fit` makes it the network that
    the killed run had at the end of its last whole epoch, with weights, optimizer, pruning state,
    batch size, place in the schedule, state of the other callbacks, `History` and the generators
    of random numbers (Python's, NumPy's, TensorFlow's, Keras's). With seeds set and on one thread
    the numbers are those of a run that was not killed. The file is replaced in one step, so there
    is a whole one at any moment.

    Data that are not arrays are read again, without training, for the epochs that were done, so
    that shuffling goes on as it would have; that takes the time of reading them.

    It works beside a pruning callback and without one.

    Args:
        backup_dir: a folder for this run alone.
        delete_checkpoint: whether the backup is deleted when training has ended.

    Raises:
        ValueError: when `fit` begins, if the backup is that of another network, optimizer or
            data, or is no backup.

    Example:

    >>> import keras, numpy as np, tempfile
    >>> from keras_dynhp.callbacks import BackupAndRestore
    >>> folder = tempfile.mkdtemp()
    >>> def run(*more):
    ...     model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    ...     model.compile("adam", "mse")
    ...     backup = BackupAndRestore(folder)
    ...     x, y = np.ones((64, 8)), np.ones((64, 2))
    ...     return model.fit(x, y, epochs=4, callbacks=[backup, *more], verbose=0)
    >>> def crash(epoch, logs):
    ...     if epoch == 2:
    ...         raise KeyboardInterrupt
    >>> try:
    ...     run(keras.callbacks.LambdaCallback(on_epoch_begin=crash))
    ... except KeyboardInterrupt:
    ...     history = run()
    >>> history.epoch, len(history.history["loss"])
    ([0, 1, 2, 3], 4)
    """

    follows_pruning = True
    place_among_callbacks = LAST

    def __init__(self, backup_dir: str | os.PathLike, delete_checkpoint: bool = True):
        super().__init__()
        if not backup_dir:
            raise ValueError(
                f"`backup_dir` must name a folder for this run. Received: {backup_dir!r}"
            )
        self.path = pathlib.Path(backup_dir) / "backup.npz"
        self.delete_checkpoint = delete_checkpoint
        self._callbacks = None
        self._pruner = None
        self._at_begin: dict[str, dict] = {}

    def set_params(self, params):
        super().set_params(params)
        join(self)
        self._callbacks = list_that_calls(self) or self._callbacks
        self._pruner = pruner_beside(self)

    def on_train_begin(self, logs=None):
        self._at_begin = {
            name: copy.deepcopy(_plain_attributes(callback)) for name, callback in self._others()
        }
        remove_leftovers(self.path)
        if self.path.exists():
            self._restore(read_tree(self.path))

    def on_epoch_begin(self, epoch, logs=None):
        start_at_epoch(self.model, None)  # only this fit begins later

    def on_epoch_end(self, epoch, logs=None):
        model = get_values(self.model) if self._pruner is None else self._pruner.get_state()
        write_tree(
            self.path,
            {
                "epoch": epoch,
                "training": model,
                "pruned": self._pruner is not None,
                "callbacks": {name: self._changes(name, c) for name, c in self._others()},
                "random": get_random_state(),
            },
        )

    def on_train_end(self, logs=None):
        start_at_epoch(self.model, None)
        if self.delete_checkpoint:
            self.path.unlink(missing_ok=True)

    def _restore(self, state: dict) -> None:
        if not isinstance(state, dict) or "training" not in state:
            raise ValueError(f"{str(self.path)!r} is no backup of a run. Choose another folder.")
        if state["pruned"] != (self._pruner is not None):
            given = "with" if state["pruned"] else "without"
            raise ValueError(
                f"The backup {str(self.path)!r} is that of a run {given} a pruning callback. Run "
                "the same program again, or choose another backup_dir."
            )
        done = state["epoch"] + 1
        if self._pruner is not None:
            self._pruner.set_state(state["training"])
        else:
            set_values(self.model, state["training"])
        for name, callback in self._others():
            given = state["callbacks"].get(name, {})
            if hasattr(callback, "set_state"):
                callback.set_state(given)
            else:
                vars(callback).update(given)
        replay_data(self.model, done)
        set_random_state(state["random"])
        start_at_epoch(self.model, done)

    def _others(self) -> list[tuple[str, keras.callbacks.Callback]]:
        """The other callbacks of the fit by a name that is the same in the next process."""
        named: dict[str, keras.callbacks.Callback] = {}
        for callback in self._callbacks.callbacks if self._callbacks else ():
            if callback is self or callback is self._pruner:
                continue
            if isinstance(callback, keras.callbacks.ProgbarLogger):
                continue  # shows, and remembers nothing
            kind = type(callback).__name__
            named[f"{kind} {sum(name.startswith(kind + ' ') for name in named)}"] = callback
        return list(named.items())

    def _changes(self, name: str, callback: keras.callbacks.Callback) -> dict:
        """What a callback has learned: its settings are those of the program."""
        if hasattr(callback, "get_state"):
            return callback.get_state()
        before = self._at_begin.get(name, {})
        return {
            key: value
            for key, value in _plain_attributes(callback).items()
            if key not in before or not _same(before[key], value)
        }


# What Keras sets in each process; the sign of `min_delta` turns when the first epoch ends.
_NOT_LEARNED = frozenset({"params", "_model", "min_delta"})


def _plain_attributes(callback: keras.callbacks.Callback) -> dict:
    return {
        key: value
        for key, value in vars(callback).items()
        if key not in _NOT_LEARNED and _is_plain(value)
    }


def _is_plain(value) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str, np.ndarray, np.generic))


def _same(one, other) -> bool:
    try:
        return type(one) is type(other) and bool(np.all(one == other))
    except ValueError:
        return False
