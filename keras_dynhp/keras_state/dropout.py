"""A fact about Keras's dropout layers: they look up their `rate` whenever they are called."""

from __future__ import annotations

from collections.abc import Callable

import keras

__all__ = ["scale_rate"]


def scale_rate(layer: keras.layers.Layer, factor: float) -> Callable[[], None]:
    """Let a dropout layer drop `factor` times its rate, in what is traced from now on.

    The layer's `rate` stays the user's between calls, so configs, copies and saved files know
    nothing of it.

    Args:
        layer: a layer with a `rate`: `Dropout`, a `SpatialDropout`, `GaussianDropout` or
            `AlphaDropout`.
        factor: between 0 and 1.

    Returns:
        A function that takes this away; functions traced before go on containing it.

    Example:

    >>> layer = keras.layers.Dropout(0.5)
    >>> undo = scale_rate(layer, 0.0)
    >>> layer(keras.ops.ones((2,)), training=True).numpy(), layer.rate
    (array([1., 1.], dtype=float32), 0.5)
    >>> undo()
    """
    own = vars(layer).get("call")  # a user's own patch of the instance
    call = layer.call

    def scaled(*args, **kwargs):
        rate = layer.rate
        layer.rate = rate * factor
        try:
            return call(*args, **kwargs)
        finally:
            layer.rate = rate

    def undo() -> None:
        if vars(layer).get("call") is not scaled:
            return
        del vars(layer)["call"]
        if own is not None:
            vars(layer)["call"] = own

    vars(layer)["call"] = scaled  # past __setattr__, which would track it
    return undo
