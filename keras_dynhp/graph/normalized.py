"""Kernels whose scale makes no difference."""

from __future__ import annotations

import keras
from keras import layers

from keras_dynhp.keras_state import graph as ks

# What it makes of its input is the same when all of that is multiplied by a number.
NORMALIZATIONS = (
    layers.BatchNormalization,
    layers.GroupNormalization,
    layers.LayerNormalization,
    layers.RMSNormalization,
    layers.UnitNormalization,
)
# Without an activation, what it makes grows in proportion to its kernels.
LINEAR = (
    *(layers.Dense, layers.EinsumDense),
    *(layers.Conv1D, layers.Conv2D, layers.Conv3D),
    *(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose),
    *(layers.DepthwiseConv1D, layers.DepthwiseConv2D),
    *(layers.SeparableConv1D, layers.SeparableConv2D),
)


def normalized_kernels(model: keras.Model) -> set[int]:
    """The ids of the kernels whose outputs all go straight into a normalization.

    Args:
        model: a Sequential or Functional model.

    Example:

    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((4,)),
    ...         keras.layers.Dense(3, use_bias=False),
    ...         keras.layers.BatchNormalization(),
    ...         keras.layers.Dense(2),
    ...     ]
    ... )
    >>> normalized_kernels(model) == {id(model.layers[0].kernel)}
    True
    """
    scaled: dict[int, layers.Layer] = {}
    plain: set[int] = set()
    _sort(ks.functional_of(model), scaled, plain)
    return {
        id(variable)
        for key, layer in scaled.items()
        if key not in plain
        for variable in layer.trainable_variables
        if len(variable.shape) > 1
    }


def _sort(functional, scaled: dict[int, layers.Layer], plain: set[int]) -> None:
    """Linear layers with a call that is only normalized, and those with any other call, by id."""
    nodes = [node for node in ks.nodes_in_order(functional) if not ks.is_input(node)]
    read = {id(tensor) for tensor in functional.outputs}
    for node in nodes:
        if not isinstance(node.operation, NORMALIZATIONS):
            read.update(id(tensor) for tensor in ks.input_tensors(node))
    for node in nodes:
        layer = node.operation
        if isinstance(layer, keras.Model):
            inner = ks.functional_of(layer)
            if inner is not None:
                _sort(inner, scaled, plain)
        elif isinstance(layer, LINEAR) and layer.activation is keras.activations.linear:
            if any(id(tensor) in read for tensor in ks.output_tensors(node)):
                plain.add(id(layer))
            else:
                scaled[id(layer)] = layer
