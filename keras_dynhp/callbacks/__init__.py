"""Callbacks: they orchestrate, they compute nothing.

`EarlyStopping`, `ModelCheckpoint` and `BackupAndRestore` are Keras's for a network that is being
pruned: where Keras's own holds weights of one shape, these keep the best small enough network, and
a run that was killed goes on.
"""

from keras_dynhp.callbacks.backup_and_restore import BackupAndRestore
from keras_dynhp.callbacks.early_stopping import EarlyStopping
from keras_dynhp.callbacks.model_checkpoint import ModelCheckpoint

__all__ = ["BackupAndRestore", "EarlyStopping", "ModelCheckpoint"]
