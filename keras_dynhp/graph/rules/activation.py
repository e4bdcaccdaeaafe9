"""Which activations act on every channel by itself."""

from __future__ import annotations

import keras
import numpy as np

from keras_dynhp.graph.registry import find_rule, rule_for, zero_kept_by
from keras_dynhp.graph.rules.elementwise import clip, elementwise, softmax
from keras_dynhp.graph.rules.merging import arithmetic
from keras_dynhp.keras_state import graph as ks

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
    if is_known(activation):
        return f"its activation {name} mixes channels" if name in MIXING else None
    if all(_acts_on_each_number(activation, rank) for rank in (2, 3, 4, 5)):
        return None
    return (
        f"its activation {name!r} may mix channels: it is not one of keras.activations, nor made "
        "of those keras.ops alone that act on every number by itself"
    )


def _acts_on_each_number(function, rank: int) -> bool:
    """Whether the graph of a function shows that no number has to do with another.

    The graph must be the same whatever the sizes are, and what is then computed, too.
    """
    sizes = (2, 3, 4, 5, 6)[:rank], (3, 17, 9, 33, 12)[:rank], (1, 300, 41, 2, 3)[:rank]
    graphs = [_elementwise_calls(function, shape) for shape in sizes]
    if None in graphs or not graphs[0] == graphs[1] == graphs[2]:
        return False
    x = np.linspace(-4, 4, 6**rank, dtype="float32").reshape([6] * rank)
    middle = (slice(2, 5),) * rank
    try:
        whole, part = (np.asarray(function(keras.ops.convert_to_tensor(v))) for v in (x, x[middle]))
    except Exception:
        return False
    return whole.shape == x.shape and np.allclose(whole[middle], part, 1e-5, 1e-6, equal_nan=True)


def _elementwise_calls(function, shape) -> list | None:
    """The operations of a function and their constants; None if some are not on every number."""
    x = keras.Input(batch_shape=shape)
    try:
        y = function(x)
        nodes = [] if y is x else ks.nodes_in_order(keras.Model(x, y))
    except Exception:  # it does not work with symbolic tensors: a function of tf, perhaps
        return None
    calls = [_constants(node, x) for node in nodes if not ks.is_input(node)]
    return None if y.shape != x.shape or None in calls else calls


def _constants(node, x) -> tuple | None:
    """What is called with which numbers; None if a number has to do with others."""
    rule, _ = find_rule(node.operation)
    if rule is not elementwise and rule is not arithmetic and rule is not clip:
        return None
    given = keras.tree.flatten(ks.call_arguments(node))
    if not isinstance(node.operation, keras.layers.Layer):
        given += keras.tree.flatten(ks.given_attributes(node.operation))
    numbers = []
    for one in given:
        symbolic = isinstance(one, keras.KerasTensor)
        if one.shape != x.shape if symbolic else np.ndim(one):
            return None
        if not symbolic and not isinstance(one, keras.Variable):
            numbers.append(one.item() if hasattr(one, "item") else str(one))
    return type(node.operation), numbers


zero_kept_by(keras.layers.Activation, when=lambda layer: keeps_zero(layer.activation))


@rule_for(keras.layers.Activation)
def activation(call):
    """An activation function by itself."""
    why = mixes_channels(call.layer.activation)
    if why is None:
        return call.inputs[0]
    if is_known(call.layer.activation):
        return softmax(call, -1)
    return call.barrier(why) if call.varies() else call.inputs[0]
