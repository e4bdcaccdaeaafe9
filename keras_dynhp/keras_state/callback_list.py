"""Private facts about Keras's list of callbacks: finding it, and the order in it."""

from __future__ import annotations

import sys
from collections.abc import Callable

import keras

__all__ = ["list_that_calls", "reorder", "start_at_epoch"]


def list_that_calls(callback: keras.callbacks.Callback) -> keras.callbacks.CallbackList | None:
    """The list that is calling `callback` just now, or None.

    Keras hands the list to nobody, so it is read from the calling frames. A list is complete when
    it calls `set_params`, which is before any `on_train_begin`.
    """
    frame = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList) and callback in caller.callbacks:
            return caller
        frame = frame.f_back
    return None


def reorder(callbacks: keras.callbacks.CallbackList, position: Callable[[object], int]) -> None:
    """Sort the callbacks by `position(callback)`; equals stay in their order.

    Works while the list is being gone through: that goes on with the old order, the next call of
    the list has the new one.
    """
    callbacks.callbacks = sorted(callbacks.callbacks, key=position)


def start_at_epoch(model: keras.Model, epoch: int | None) -> None:
    """From `on_train_begin`: the epoch with which the running fit begins; None: the user's own."""
    model._initial_epoch = epoch
