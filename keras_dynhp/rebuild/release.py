"""Giving the memory of dead variables back at once, whoever still holds them."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_dynhp.memory import measure
from keras_dynhp.memory.allocator import ALIGNMENT

__all__ = ["pack", "put_value", "release_variable"]

# A gap is passed over if it is larger than a value by more than this; so many at most.
_FITS, _TRIES = 1.1, 4


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
    for component in _components(variable):
        with tf.device(component.device):
            # Copied: a tensor made of an array may be the array's own memory, which TensorFlow's
            # allocator neither counts nor gets back.
            tensor = tf.raw_ops.DeepCopy(x=tf.convert_to_tensor(value, component.dtype))
            tf.raw_ops.AssignVariableOp(
                resource=component.handle, value=tensor, validate_shape=False
            )


def pack(variables: list) -> None:
    """Move the values of variables together, the largest first.

    TensorFlow's allocator gives a request the smallest gap that holds it, whole if it is less than
    twice as large. What has been made where others were freed one by one therefore counts up to
    twice what it asked for, and cuts what is left into pieces that do the same to all later
    tensors. When all are freed first, there are large gaps again; and where the allocator reports,
    gaps that are too large for a value, but too small to be cut, are passed over.

    Args:
        variables: whose values are copied to the host meanwhile, on each replica its own.

    Example:

    >>> variables = [keras.Variable([1.0, 2.0]), keras.Variable(3)]
    >>> pack(variables)
    >>> [variable.numpy().tolist() for variable in variables]
    [[1.0, 2.0], 3]
    """
    components = [part for variable in variables for part in _components(variable)]
    values = [component.numpy() for component in components]
    for component in components:
        release_variable(component)
    passed_over: list[tf.Tensor] = []
    for component, value in sorted(zip(components, values), key=lambda pair: -pair[1].nbytes):
        taken = _put_and_measure(component, value)
        for _ in range(_TRIES):
            if taken <= _FITS * value.nbytes + ALIGNMENT:
                break
            passed_over.append(component.read_value())
            release_variable(component)
            taken = _put_and_measure(component, value)


def _put_and_measure(component: tf.Variable, value) -> int:
    """Give a component its value; the bytes that it took, 0 where the allocator does not tell."""
    if not measure.is_available():
        put_value(component, value)
        return 0
    before = measure.current_bytes()
    put_value(component, value)
    return measure.current_bytes() - before


def _components(variable: keras.Variable | tf.Variable) -> tuple[tf.Variable, ...]:
    """One for each device: variables made under a distribution strategy have several."""
    target = _tensorflow_variable(variable)
    return getattr(target, "values", (target,))


def _tensorflow_variable(variable):
    return variable.value if isinstance(variable, keras.Variable) else variable
