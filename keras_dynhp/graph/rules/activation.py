"""Which activations act on every channel by itself."""

from __future__ import annotations

import keras

# Activations that mix channels: a removed channel would change the others.
MIXING = {"softmax", "log_softmax", "sparsemax", "glu"}


def mixes_channels(activation) -> str | None:
    """Why an activation may not be pruned through, or None if it works channel by channel."""
    if activation is None:
        return None
    name = getattr(activation, "__name__", None)
    if isinstance(activation, keras.layers.Layer):
        return f"its activation is a layer ({type(activation).__name__})"
    if getattr(keras.activations, str(name), None) is not activation:
        return f"its activation {name!r} is not one of keras.activations, so it may mix channels"
    if name in MIXING:
        return f"its activation {name} mixes channels"
    return None
