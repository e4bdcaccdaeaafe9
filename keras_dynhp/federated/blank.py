"""Networks whose large weights take no memory until they are given values."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import keras
import tensorflow as tf

from keras_dynhp.keras_state.variables import initialized_by
from keras_dynhp.rebuild.release import put_value, release_variable

__all__ = ["Blank", "blank_weights"]

# Variables of fewer numbers get their values as ever: metrics, biases, seeds.
_LARGE = 1024


class Blank:
    """The variables that `blank_weights` left without a value."""

    def __init__(self):
        self._left: list[tuple[keras.Variable, object]] = []

    def leave(self, variable: keras.Variable, initializer, initialize) -> None:
        """Make a variable, without values if it is large."""
        large = math.prod(variable.shape) >= _LARGE and variable.dtype.startswith(
            ("float", "bfloat")
        )
        initialize(_zeros if large else initializer)
        if large:
            release_variable(variable)
            self._left.append((variable, initializer))

    def fill_others(self, model: keras.Model) -> None:
        """Give those that are no weights of a model the values they would have had."""
        weights = {id(variable) for variable in model.weights}
        for variable, initializer in self._left:
            if id(variable) not in weights:
                put_value(variable, initializer(tuple(variable.shape), dtype=variable.dtype))


@contextlib.contextmanager
def blank_weights() -> Iterator[Blank]:
    """Make networks inside without the memory of their large weights, or of computing them.

    Only one variable at a time is there, for a moment. Afterwards each has to be given a value
    with `put_value`; reading one before gives an empty array.
    """
    blank = Blank()
    with initialized_by(blank.leave):
        yield blank


def _zeros(shape, dtype=None):
    return tf.zeros(shape, dtype)
