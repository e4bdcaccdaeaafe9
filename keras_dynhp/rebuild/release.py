"""Giving the memory of dead variables back at once, whoever still holds them."""

from __future__ import annotations

import keras
import tensorflow as tf

__all__ = ["put_value", "release_variable"]


def release_variable(variable: keras.Variable | tf.Variable) -> None:
    """Free the tensor behind a variable that nothing will use again.

    Dropping references is not enough: traced functions, compile configurations and the user's own
    tensors keep variables alive. So an empty tensor takes the place of the value, on every
    replica, and the allocator gets the memory back while the dead variable lives on. A later read
    gives the empty tensor, so using a dead variable fails loudly instead of training it.

    Args:
        variable: what to free. Its declared shape does not change.

    Example:

    >>> dead = keras.Variable([1.0, 2.0, 3.0])
    >>> release_variable(dead)
    >>> dead.numpy().size
    0
    """
    put_value(variable, tf.zeros((0,), _tensorflow_variable(variable).dtype))


def put_value(variable: keras.Variable | tf.Variable, value) -> None:
    """Give a variable a value whatever the shape of the tensor it holds now, on every replica.

    `assign` compares with the tensor that is there, so it cannot fill a variable that was
    released; this can.

    Args:
        variable: what to fill.
        value: array or tensor; the caller answers for its shape.

    Example:

    >>> variable = keras.Variable([1.0, 2.0])
    >>> release_variable(variable)
    >>> put_value(variable, [3.0, 4.0])
    >>> variable.numpy()
    array([3., 4.], dtype=float32)
    """
    target = _tensorflow_variable(variable)
    # Variables made under a distribution strategy have one component on each device.
    for component in getattr(target, "values", (target,)):
        with tf.device(component.device):
            tf.raw_ops.AssignVariableOp(
                resource=component.handle,
                value=tf.convert_to_tensor(value, component.dtype),
                validate_shape=False,
            )


def _tensorflow_variable(variable):
    return variable.value if isinstance(variable, keras.Variable) else variable
