"""Layers around other layers."""

from __future__ import annotations

import keras
import numpy as np

from keras_dynhp.graph import labels as lb
from keras_dynhp.graph.registry import rule_for
from keras_dynhp.keras_state import graph as ks

layers = keras.layers


@rule_for(layers.TimeDistributed)
def time_distributed(call):
    """The layer inside, at every step of axis 1."""
    inner = call.layer.layer
    if 1 in call.varies():
        return call.barrier("runs over the axis along which channels lie")
    given = [np.squeeze(call.inputs[0], 1)]
    call.inside(inner, "layer")
    functional = ks.functional_of(inner) if isinstance(inner, keras.Model) else None
    if functional is not None:
        outputs = call.trace.trace_inner(functional, given, f"{call.path}/{inner.name}/")
    else:
        step = call.inside(
            inner,
            inputs=given,
            input_shapes=[_step(shape) for shape in call.input_shapes],
            output_shapes=[_step(shape) for shape in call.output_shapes],
            axis_offset=call.axis_offset + 1,
            args=(),
            kwargs={},
        )
        outputs = step.run()
    return [np.expand_dims(labels, 1) for labels in outputs]


def _step(shape):
    return (shape[0], *shape[2:])


@rule_for(layers.SpectralNormalization)
def spectral_normalization(call):
    """The layer inside; its kernel was divided by its largest singular value while training."""
    outputs = call.inside(call.layer.layer, "layer").run()
    known = call.trace.variables.get(id(call.layer.kernel))
    if known is not None:
        call.label(call.layer.vector_u, None, known.vectors[-1])
    return outputs


@rule_for(layers.Lambda)
def function(call):
    """Any Python function."""
    return call.barrier("a Lambda may do anything with its input: to_functional looks what")


@rule_for(layers.Pipeline)
def pipeline(call):
    """Preprocessing layers in a row, over data."""
    if any((labels >= 0).any() for labels in call.inputs):
        return call.barrier("preprocesses channels")
    return [lb.blank(len(s), int(call.inputs[0].flat[0])) for s in call.output_shapes]
