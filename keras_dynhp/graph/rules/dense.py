"""Dense."""

from __future__ import annotations

import keras

from keras_dynhp.graph.records import ADAPTED
from keras_dynhp.graph.registry import rule_for
from keras_dynhp.graph.rules.activation import mixes_channels
from keras_dynhp.keras_state.graph import is_adapted


@rule_for(keras.layers.Dense)
def dense(call):
    """Reads features along the last axis, makes units."""
    layer = call.layer
    if is_adapted(layer):
        return call.barrier(ADAPTED)
    features = call.read(0)
    neurons = call.produce(layer.units)
    call.label(layer._kernel if layer.built else None, (features, "in"), (neurons, "out"))
    call.label(layer.bias, (neurons, "out"))
    call.resize("units", neurons)
    why = mixes_channels(layer.activation)
    if why:
        call.pin(neurons, why)
    return call.along(neurons)
