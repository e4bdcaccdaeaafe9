"""What may stand beside a pruning callback in `fit`, and in which order."""

from __future__ import annotations

import keras

from keras_dynhp.keras_state.callback_list import list_that_calls, reorder

__all__ = ["has_conclusion", "join", "let_begin", "log_dirs_beside", "pruner_beside"]

# Keras's own callbacks that hold weights of one shape, what they would do, and ours for them.
_CLASHES = (
    (
        keras.callbacks.EarlyStopping,
        "restore_best_weights",
        "EarlyStopping(restore_best_weights=True) would give the small network weights of the "
        "shapes of an early, larger one. Use keras_dynhp.callbacks.EarlyStopping, which restores "
        "the best network that is small enough, with the same arguments",
    ),
    (
        keras.callbacks.ModelCheckpoint,
        "save_best_only",
        "ModelCheckpoint(save_best_only=True) would keep the large network of an early epoch as "
        "the best. Use keras_dynhp.callbacks.ModelCheckpoint, which keeps none over the target, "
        "with the same arguments",
    ),
    (
        keras.callbacks.BackupAndRestore,
        "backup_dir",
        "BackupAndRestore cannot load the weights of a smaller network into the one that your "
        "program begins with. Use keras_dynhp.callbacks.BackupAndRestore(backup_dir)",
    ),
)

# Where a callback stands, by its attribute `place_among_callbacks`.
FIRST, LAST, CONCLUSION = -1, 1, 2


class Conclusion(keras.callbacks.Callback):
    """Called after all others when training ends: lets the pruning callback conclude.

    The others may still change the network then (restore the best epoch's, swap averages), and
    what a conclusion raises must keep none of them from its own end.

    Args:
        pruner: the pruning callback of the same fit.
    """

    place_among_callbacks = CONCLUSION

    def __init__(self, pruner):
        super().__init__()
        self.pruner = pruner

    def on_train_end(self, logs=None):
        self.pruner.conclude()


def join(callback: keras.callbacks.Callback) -> None:
    """From `set_params`: take one's place in the list of callbacks, if the list allows it.

    A pruning callback is called first, so that all others see the network and the logs as they
    are after pruning; a backup last, so that it saves what all others have done. When training
    ends, the pruning callback's `conclude` is called after everything else.

    Raises:
        ValueError: for a callback that cannot work across a prune, with the one that can.
    """
    callbacks = list_that_calls(callback)
    if callbacks is None:
        return
    reorder(callbacks, lambda other: getattr(other, "place_among_callbacks", 0))
    pruners = [other for other in callbacks.callbacks if _prunes(other)]
    if len(pruners) > 1:
        names = ", ".join(type(pruner).__name__ for pruner in pruners)
        raise ValueError(
            f"Two callbacks cannot prune one model in the same fit. Received: {names}. Use one; "
            "several limits go into one Target."
        )
    if not pruners:
        return
    if not has_conclusion(callback):
        callbacks.callbacks.append(Conclusion(*pruners))
    for other in callbacks.callbacks:
        for kind, setting, message in _CLASHES:
            ours = getattr(other, "follows_pruning", False)
            if isinstance(other, kind) and not ours and getattr(other, setting):
                raise ValueError(f"{message}. Received: callbacks=[..., {other}, ...]")


def has_conclusion(callback: keras.callbacks.Callback) -> bool:
    """Whether the list that is calling `callback` will let the pruning callback conclude."""
    callbacks = list_that_calls(callback)
    return callbacks is not None and any(isinstance(c, Conclusion) for c in callbacks.callbacks)


def let_begin(callback: keras.callbacks.Callback, epoch: int, logs: dict | None) -> None:
    """From `on_epoch_begin`: let those begin the epoch that have put other weights into the model.

    `SwapEMAWeights` gives the model its own weights back then; called again, it does nothing.
    """
    callbacks = list_that_calls(callback)
    for other in callbacks.callbacks if callbacks is not None else ():
        if isinstance(other, keras.callbacks.SwapEMAWeights):
            other.on_epoch_begin(epoch, logs)


def pruner_beside(callback: keras.callbacks.Callback):
    """From `set_params`: the pruning callback of the same fit, or None."""
    callbacks = list_that_calls(callback)
    if callbacks is None:
        return None
    return next((other for other in callbacks.callbacks if _prunes(other)), None)


def log_dirs_beside(callback: keras.callbacks.Callback) -> list[str]:
    """Where the `TensorBoard` callbacks of the same fit write."""
    callbacks = list_that_calls(callback)
    if callbacks is None:
        return []
    kind = keras.callbacks.TensorBoard
    return [other.log_dir for other in callbacks.callbacks if isinstance(other, kind)]


def _prunes(callback) -> bool:
    return getattr(callback, "prunes_the_model", False)
