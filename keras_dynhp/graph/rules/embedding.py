"""Embeddings: a vector for every token."""

from __future__ import annotations

import keras

from keras_dynhp.graph.records import ADAPTED, IN, OUT
from keras_dynhp.graph.registry import rule_for
from keras_dynhp.keras_state.graph import is_adapted

layers = keras.layers


@rule_for(layers.Embedding)
def embedding(call):
    """Makes features of tokens; the vocabulary stays."""
    layer = call.layer
    if is_adapted(layer):
        return call.barrier(ADAPTED)
    features = call.produce(layer.output_dim)
    for labels in call.inputs:
        call.pin(labels, "reads them as numbers of tokens")
    call.label(layer._embeddings, None, (features, OUT))
    call.resize("output_dim", features)
    return call.along(features)


@rule_for(getattr(layers, "ReversibleEmbedding", None))
def reversible_embedding(call):
    """Tokens to features, or features back to a score for every token."""
    layer = call.layer
    if not call.arguments().get("reverse", False):
        return embedding(call)
    if is_adapted(layer):
        return call.barrier(ADAPTED)
    # With tied weights, the variable that reads the features is the one that makes them.
    features = call.read(0, weightless=layer.tie_weights)
    if layer.tie_weights:
        call.label(layer._embeddings, None, features)
    else:
        call.label(layer.reverse_embeddings, (features, IN), None)
    call.resize("output_dim", features)
    return call.opaque("scores of tokens made by")
