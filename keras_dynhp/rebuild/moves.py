"""What a clone is given of the model it was made from: values, assets and settings."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import keras
import numpy as np

from keras_dynhp.graph.trace import Trace
from keras_dynhp.keras_state import graph as ks
from keras_dynhp.keras_state.model import refresh_statistics
from keras_dynhp.layers.neuron_mask import NeuronMask
from keras_dynhp.rebuild.clone import Clone, train_alike, with_inner
from keras_dynhp.rebuild.transfer import Transfer

SHARED = (
    "The weight {path!r} is held by layer {layer!r} and by another one. Made anew, each of the two "
    "would have its own. Call the layer to which it belongs in the model's graph itself, or teach "
    "the tracing the layers that share it (register_rule)."
)


def _own_variables(layer) -> list[keras.Variable]:
    """A layer's variables without those of masks inside it."""
    masks = {id(inner.mask) for inner in ks.with_inner(layer) if isinstance(inner, NeuronMask)}
    return [variable for variable in layer.variables if id(variable) not in masks]


def settle(trace: Trace, clone: Clone) -> None:
    """Bring over what layers know beside their variables, once those have their values.

    Vocabularies are assets, as in a saved model; a Normalization keeps its statistics twice.
    """
    refresh_statistics(clone.model)
    for old_layer, new_layer in clone.pairs(trace):
        for old, new in zip(with_inner(old_layer), with_inner(new_layer)):
            if hasattr(old, "save_assets"):
                with tempfile.TemporaryDirectory() as folder:
                    old.save_assets(folder)
                    new.load_assets(folder)


def transfers(trace: Trace, clone: Clone, keep: dict[int, dict[int, np.ndarray]]) -> list[Transfer]:
    """Which old variable becomes which new one, and what is kept of it.

    What is set on layers and variables, and not in a configuration, is brought over here: whether
    they are trained, regularizers and constraints.

    Raises:
        ValueError: with the layer's name, if the rebuilt layer's variables don't have the shapes
            that the plan gives them (its rule says something else than its code does), or if two
            layers hold the same variable and each would get its own.
    """
    moves: dict[int, Transfer] = {}
    for old_layer, new_layer in clone.pairs(trace):
        if isinstance(old_layer, NeuronMask):
            continue
        train_alike(old_layer, new_layer)
        for move in moves_of(trace, old_layer, new_layer, keep):
            if moves.setdefault(id(move.old), move).new is not move.new:
                raise ValueError(SHARED.format(path=move.old.path, layer=old_layer.name))
            _set_alike(move.old, move.new)
    return list(moves.values())


def _set_alike(old: keras.Variable, new: keras.Variable) -> None:
    if new.trainable != old.trainable:
        new.trainable = old.trainable
    if new.regularizer is not old.regularizer:
        new.regularizer = old.regularizer
    if new.constraint is not old.constraint:
        new.constraint = old.constraint


def moves_of(trace: Trace, old_layer, new_layer, keep) -> Iterator[Transfer]:
    """The transfers of one layer, after a look whether it is what the plan says."""
    path = trace.paths.get(id(old_layer), old_layer.name)
    old_vars, new_vars = _own_variables(old_layer), _own_variables(new_layer)
    if len(old_vars) != len(new_vars):
        raise ValueError(
            f"Layer {path!r} ({type(old_layer).__name__}) has {len(old_vars)} variables, and "
            f"{len(new_vars)} when made anew from its get_config(). Its configuration must "
            "say everything that its build() needs."
        )
    for old, new in zip(old_vars, new_vars):
        kept = keep.get(id(old), {})
        want = tuple(len(kept[a]) if a in kept else d for a, d in enumerate(old.shape))
        if tuple(new.shape) != want:
            raise ValueError(
                f"Layer {path!r} ({type(old_layer).__name__}): {old.path!r} should shrink from "
                f"{tuple(old.shape)} to {want}, but the rebuilt layer makes it "
                f"{tuple(new.shape)}. The layer's rule does not say what the layer does."
            )
        yield Transfer(old, new, dict(kept))
