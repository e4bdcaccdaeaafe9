"""ModelCheckpoint whose best network is one that is small enough."""

from __future__ import annotations

import os
import pathlib

import keras

from keras_dynhp.callbacks.company import pruner_beside
from keras_dynhp.saving.files import replace_file

__all__ = ["ModelCheckpoint"]


class ModelCheckpoint(keras.callbacks.ModelCheckpoint):
    """Keras's `ModelCheckpoint` for a network that is being pruned.

    The arguments are those of `keras.callbacks.ModelCheckpoint` but for `save_freq`: it saves at
    epoch ends, after pruning. With `save_best_only=True` a network over the target of the pruning
    callback beside it is never kept. Files are replaced in one step, so a crash leaves the old one
    or the whole new one.

    Example:

    >>> import keras, numpy as np, keras_dynhp as dynhp, os, tempfile
    >>> from keras_dynhp.callbacks import ModelCheckpoint
    >>> model = keras.Sequential(
    ...     [keras.Input((8,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(2)]
    ... )
    >>> model.compile("adam", "mse")
    >>> x, y = np.random.rand(64, 8), np.random.rand(64, 2)
    >>> hp = dynhp.PruneAndRebuild(dynhp.Target(compression=2))
    >>> path = os.path.join(tempfile.mkdtemp(), "best.keras")
    >>> best = ModelCheckpoint(path, monitor="loss", save_best_only=True)
    >>> history = model.fit(x, y, epochs=6, callbacks=[hp, best], verbose=0)
    >>> keras.saving.load_model(path).count_params() <= 354 / 2
    True
    """

    follows_pruning = True

    def __init__(
        self,
        filepath,
        monitor="val_loss",
        verbose=0,
        save_best_only=False,
        save_weights_only=False,
        mode="auto",
        initial_value_threshold=None,
    ):
        super().__init__(
            filepath,
            monitor=monitor,
            save_best_only=save_best_only,
            save_weights_only=save_weights_only,
            mode=mode,
            initial_value_threshold=initial_value_threshold,
        )
        self.tell = bool(verbose)  # Keras would tell the name of the temporary file
        self._pruner = None

    def set_params(self, params):
        super().set_params(params)
        self._pruner = pruner_beside(self)

    def on_epoch_end(self, epoch, logs=None):
        if self.save_best_only and self._pruner is not None and not self._pruner.on_target:
            return
        given = self.filepath
        path = given.format(epoch=epoch + 1, **(logs or {}))

        def write(temporary):
            # Keras fills in what stands in braces.
            self.filepath = temporary.replace("{", "{{").replace("}", "}}")
            super(ModelCheckpoint, self).on_epoch_end(epoch, logs)
            if not os.path.getsize(temporary):
                raise _NothingSaved

        try:
            replace_file(path, write)
        except _NothingSaved:
            return
        finally:
            self.filepath = given
        if self.tell:
            print(f"\nEpoch {epoch + 1}: saved {pathlib.Path(path)}")


class _NothingSaved(Exception):
    """The epoch was not the best one."""
