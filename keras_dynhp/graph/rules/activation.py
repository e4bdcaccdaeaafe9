"""Which activations act on every channel by itself."""

from __future__ import annotations

import keras

# Where functions are that do what Keras's activations of their names do.
_SAME = ("tensorflow.python.ops.", "keras.src.ops.")

# Activations that mix channels: a removed channel would change the others.
MIXING = {"softmax", "log_softmax", "sparsemax", "glu"}


# Activations of zero that are zero.
AT_ZERO = {
    "celu",
    "elu",
    "gelu",
    "hard_shrink",
    "hard_silu",
    "hard_tanh",
    "leaky_relu",
    "linear",
    "relu",
    "relu6",
    "selu",
    "silu",
    "soft_shrink",
    "softsign",
    "tanh",
    "tanh_shrink",
}


def is_known(activation) -> bool:
    """Whether an activation is one of Keras's own functions, or of the same name elsewhere.

    Keras writes `tf.nn.relu` and `keras.ops.relu` down as "relu", and reads its own again.
    """
    own = getattr(keras.activations, str(getattr(activation, "__name__", None)), None)
    elsewhere = str(getattr(activation, "__module__", "")).startswith(_SAME)
    return own is not None and (own is activation or elsewhere)


def keeps_zero(activation) -> bool:
    """Whether an activation of zero is zero."""
    return is_known(activation) and activation.__name__ in AT_ZERO


def mixes_channels(activation) -> str | None:
    """Why an activation may not be pruned through, or None if it works channel by channel."""
    if activation is None:
        return None
    name = getattr(activation, "__name__", None)
    if isinstance(activation, keras.layers.Layer):
        return f"its activation is a layer ({type(activation).__name__})"
    if not is_known(activation):
        return f"its activation {name!r} is not one of keras.activations, so it may mix channels"
    if name in MIXING:
        return f"its activation {name} mixes channels"
    return None
