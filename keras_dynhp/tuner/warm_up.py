"""The dense warm-up that trials have in common: trained once, then branched."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_dynhp.callbacks.dynhp import DynHP
from keras_dynhp.saving.files import read_tree, write_tree
from keras_dynhp.schedules.schedule import fraction
from keras_dynhp.tuner.rates import GroupRates

FOLDER = "warm_up"
# What of `DynHP` changes nothing as long as nothing is pruned.
_LATER = ("target", "schedule")
# Arguments of `fit` that change nothing of the training itself.
_SHOWN = ("callbacks", "epochs", "initial_epoch", "verbose")
_ROWS = 64  # of an array, that tell it from another


class WarmUp(keras.callbacks.Callback):
    """Keeps the training state of every dense epoch, and begins with one that another trial kept.

    Before a schedule begins to prune, all trials of the same network, optimizer, data, criterion
    and batch rule do the same: this trains that part once.

    Args:
        folder: where the states of such trials lie.
        pruner: the trial's pruning callback.
        epochs: of the trial.
    """

    def __init__(self, folder: Path, pruner: DynHP, epochs: int):
        super().__init__()
        self._folder = folder
        self._pruner = pruner
        self._epochs = epochs
        done = [n for n in range(1, epochs) if self._is_dense(n) and self._file(n).exists()]
        self.epochs_done = max(done, default=0)

    def on_train_begin(self, logs=None):
        if self.epochs_done:
            self._pruner.set_state(read_tree(self._file(self.epochs_done)))

    def on_epoch_end(self, epoch, logs=None):
        done = epoch + 1
        if self._is_dense(done) and not self._file(done).exists():
            write_tree(self._file(done), self._pruner.get_state())

    def _is_dense(self, epochs_done: int) -> bool:
        return fraction(self._pruner.schedule, epochs_done / self._epochs, 0) == 0

    def _file(self, epochs_done: int) -> Path:
        return self._folder / f"after_{epochs_done}.npz"


def warm_up_folder(project: str, model: keras.Model, pruner: DynHP, hp, fit) -> Path:
    """The folder of the trials that have their beginning in common with this one.

    Args:
        project: the tuner's project directory.
        model: as it will be trained, compiled.
        pruner: the trial's pruning callback.
        hp: the trial's hyperparameters; ours and the tuner's own do not count.
        fit: `(args, kwargs)` that `fit` will be given.
    """
    args, kwargs = fit
    config = pruner.get_config()
    if isinstance(pruner.criterion, GroupRates):  # the widths matter later
        criterion = pruner.criterion.criterion
        config["criterion"] = keras.saving.serialize_keras_object(criterion)
    facts = {
        "network": keras.saving.serialize_keras_object(model),
        "pruning": {name: value for name, value in config.items() if name not in _LATER},
        "searched": {n: v for n, v in hp.values.items() if not n.startswith(("dynhp/", "tuner/"))},
        "data": [_fingerprint(value) for value in args],
        "fit": {n: _fingerprint(v) for n, v in kwargs.items() if n not in _SHOWN},
    }
    text = json.dumps(facts, sort_keys=True, default=repr)
    return Path(project) / FOLDER / hashlib.sha256(text.encode()).hexdigest()[:16]


def _fingerprint(value):
    """What tells data from other data, at a glance."""
    if isinstance(value, (list, tuple)):
        return [_fingerprint(item) for item in value]
    if isinstance(value, tf.data.Dataset):
        return [repr(value.element_spec), int(value.cardinality())]
    if isinstance(value, (np.ndarray, tf.Tensor)):
        rows = np.asarray(value[:: max(1, len(value) // _ROWS)]) if value.shape else value
        return [list(value.shape), str(value.dtype), zlib.crc32(np.ascontiguousarray(rows).data)]
    if isinstance(value, (int, float, str, bool, type(None))):
        return value
    return [type(value).__qualname__, len(value) if hasattr(value, "__len__") else None]


def project_of(checkpoint_path: str) -> str:
    """The tuner's project directory, from the file of a trial's weights."""
    return os.path.dirname(os.path.dirname(checkpoint_path))
