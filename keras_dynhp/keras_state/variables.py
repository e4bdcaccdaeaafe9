"""Private facts about how Keras's variables get their first values."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import keras

__all__ = ["initialized_by"]


@contextlib.contextmanager
def initialized_by(give_value: Callable) -> Iterator[None]:
    """Let `give_value` say what variables that are made inside hold at first.

    Keras calls `_initialize_with_initializer(initializer)` of each variable that is made with an
    initializer (not of those made with a value), when the variable's shape and dtype are known.

    Args:
        give_value: called with the variable, its initializer, and a function that does with an
            initializer what Keras would do.

    Example:

    >>> def zeros(variable, initializer, initialize):
    ...     initialize(keras.initializers.Zeros())
    >>> with initialized_by(zeros):
    ...     variable = keras.Variable("ones", shape=(2,))
    >>> variable.numpy()
    array([0., 0.], dtype=float32)
    """
    own = keras.Variable._initialize_with_initializer

    def initialize_with_initializer(variable, initializer):
        give_value(variable, initializer, lambda other: own(variable, other))

    keras.Variable._initialize_with_initializer = initialize_with_initializer
    try:
        yield
    finally:
        keras.Variable._initialize_with_initializer = own
