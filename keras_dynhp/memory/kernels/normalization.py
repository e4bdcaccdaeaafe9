"""Normalizations, which Keras writes as sums and products of whole tensors."""

from __future__ import annotations

from keras import layers

from keras_dynhp.memory.kernels.registry import Step, layer_rule
from keras_dynhp.memory.tape import Size


@layer_rule(layers.BatchNormalization)
def _batch_normalization(step: Step, layer, call, inputs):
    """Training mode; a frozen layer only scales and shifts."""
    x, tape = inputs[0], step.tape
    weights = [tape.weight(v, layer.compute_dtype) for v in layer.trainable_weights]
    for variable in layer.non_trainable_weights:
        tape.weight(variable)
    scaled = _affine(step, x, weights)
    if not layer.trainable:
        tape.on_gradient(
            scaled, lambda dy: tape.send(x, tape.op("Mul", [dy], x.size, in_place=True))
        )
        return [scaled]
    tape.on_gradient(scaled, lambda dy: _normalized_gradient(step, x, dy, weights))
    return [scaled]


def _affine(step: Step, x, weights):
    tape = step.tape
    tape.op("SquaredDifference", [x], x.size)
    return tape.op("Mul", [x, *weights], x.size)


def _normalized_gradient(step: Step, x, dy, weights, copies: int = 0) -> None:
    """Through the product, the mean and the variance, each with its own copy of the tensor."""
    tape = step.tape
    scratch = (lambda batch: copies * x.size.at(batch)) if copies else None
    for weight in weights:
        tape.send(weight, tape.op("Sum", [dy], weight.size))
    direct = tape.op("Mul", [dy], x.size, in_place=True)
    product = tape.op("Mul", [dy, x], x.size, in_place=True)
    total = tape.op("Sum", [product], Size(256))
    if not x.trains:
        return
    mean = tape.op("Tile", [total], x.size)
    variance = tape.op("Tile", [total], x.size)
    centered = tape.op("Sub", [x, variance], x.size, in_place=True)
    variance = tape.op("Mul", [variance, centered], x.size, in_place=True, scratch=scratch)
    tape.send(x, tape.op("AddN", [direct, mean, variance], x.size, in_place=True))


@layer_rule(layers.GroupNormalization, layers.RMSNormalization, layers.UnitNormalization)
def _group_normalization(step: Step, layer, call, inputs):
    copies = 1 if isinstance(layer, layers.RMSNormalization) else 0
    return [_normalize(step, layer, inputs[0], copies)]


@layer_rule(layers.LayerNormalization)
def _layer_normalization(step: Step, layer, call, inputs):
    """As the others, with two more copies in the gradient."""
    return [_normalize(step, layer, inputs[0], copies=2)]


def _normalize(step: Step, layer, x, copies: int):
    weights = [step.tape.weight(v, layer.compute_dtype) for v in layer.trainable_weights]
    y = _affine(step, x, weights)
    step.tape.on_gradient(y, lambda dy: _normalized_gradient(step, x, dy, weights, copies))
    return y
