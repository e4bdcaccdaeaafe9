"""EarlyStopping that waits for the network to be small enough."""

from __future__ import annotations

import pathlib
import tempfile

import keras

from keras_dynhp.callbacks.company import pruner_beside
from keras_dynhp.saving.files import read_tree, write_tree
from keras_dynhp.saving.networks import FormerNetwork, get_values, state_variables

__all__ = ["EarlyStopping"]


class EarlyStopping(keras.callbacks.EarlyStopping):
    """Keras's `EarlyStopping` for a network that is being pruned.

    The arguments are those of `keras.callbacks.EarlyStopping`. Epochs count from when the network
    is small enough for the target of the pruning callback beside it, so training does not stop
    before that, and what `restore_best_weights=True` gives back at the end of `fit` is the best
    network *and small enough*: widths and weights of the epoch that was best by `monitor`. It is
    kept in a file, not in memory. Without a pruning callback in the same `fit` every network is
    small enough.

    Example:

    >>> import keras, numpy as np, keras_dynhp as dynhp
    >>> from keras_dynhp.callbacks import EarlyStopping
    >>> model = keras.Sequential(
    ...     [keras.Input((8,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(2)]
    ... )
    >>> model.compile("adam", "mse")
    >>> x, y = np.random.rand(64, 8), np.random.rand(64, 2)
    >>> hp = dynhp.PruneAndRebuild(dynhp.Target(compression=2))
    >>> stop = EarlyStopping(monitor="loss", patience=3, restore_best_weights=True)
    >>> history = model.fit(x, y, epochs=8, callbacks=[stop, hp], verbose=0)
    >>> model.count_params() <= 354 / 2
    True
    """

    follows_pruning = True

    def __init__(
        self,
        monitor="val_loss",
        min_delta=0,
        patience=0,
        verbose=0,
        mode="auto",
        baseline=None,
        restore_best_weights=False,
        start_from_epoch=0,
    ):
        super().__init__(
            monitor, min_delta, patience, verbose, mode, baseline, False, start_from_epoch
        )
        self.restore_best = bool(restore_best_weights)  # Keras's own would hold weights in memory
        self._pruner = None
        self._network: FormerNetwork | None = None
        self._folder: tempfile.TemporaryDirectory | None = None

    def set_params(self, params):
        super().set_params(params)
        self._pruner = pruner_beside(self)

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._network = None
        self._folder = tempfile.TemporaryDirectory(prefix="keras_dynhp_")

    def on_epoch_end(self, epoch, logs=None):
        if self._pruner is not None and not self._pruner.on_target:
            return
        before = self.best
        super().on_epoch_end(epoch, logs)
        if self.restore_best and self.best is not None and self.best != before:
            self._network = FormerNetwork(self.model)
            write_tree(self._file(), get_values(self.model))

    def on_train_end(self, logs=None):
        super().on_train_end(logs)
        if self._network is not None:
            if self.verbose > 0:
                print(f"Restoring the best small enough network: epoch {self.best_epoch + 1}.")
            self._network.come_back(read_tree(self._file()))
        self._network = None
        self._folder.cleanup()

    def _file(self) -> pathlib.Path:
        return pathlib.Path(self._folder.name) / "best.npz"

    def get_state(self) -> dict:
        """What `BackupAndRestore` keeps of it."""
        return {
            "wait": self.wait,
            "stopped_epoch": self.stopped_epoch,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "network": None if self._network is None else read_tree(self._file()),
        }

    def set_state(self, state: dict) -> None:
        """Go on from a state; the model has the widths that it had then."""
        self.wait, self.stopped_epoch = state["wait"], state["stopped_epoch"]
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        if state["network"] is None:
            return
        shapes = [tuple(variable.shape) for variable in state_variables(self.model)]
        if shapes != [value.shape for value in state["network"]["variables"]]:
            # An undone prune lay between: the best network's graph is gone, so look anew.
            self.best, self.wait = None, 0
            return
        self._network = FormerNetwork(self.model)
        write_tree(self._file(), state["network"])
