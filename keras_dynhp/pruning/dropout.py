"""Dropout that grows weaker as the neurons in front of it become fewer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import keras
import numpy as np

from keras_dynhp.graph.groups import ChannelGroups
from keras_dynhp.keras_state import graph as ks
from keras_dynhp.keras_state.dropout import scale_rate

# SpatialDropout1D, 2D and 3D are kinds of Dropout.
LAYERS = (keras.layers.Dropout, keras.layers.GaussianDropout, keras.layers.AlphaDropout)


def weaken_dropout(groups: ChannelGroups, full: Mapping[str, float]) -> Callable[[], None]:
    """Let every dropout layer drop less, the fewer of its neurons are left.

    A network with fewer neurons has less to overfit with and can spare less: with the rates that
    suited the full network it underfits. Rates fall in proportion to the neurons; Han et al.
    (arXiv 1506.02626, section 3.2) take the root of the share of a layer's connections that stays,
    which is the same where the layers on both sides shrink alike.

    Args:
        groups: the channel groups as they are now.
        full: for each group's name, how many neurons it had before anything was pruned.

    Returns:
        A function that gives the layers their own rates back.
    """
    shares = surviving_shares(groups, full)
    undo = [scale_rate(layer, share) for layer, share in shares if share != 1]

    def give_back() -> None:
        for step in undo:
            step()

    return give_back


def surviving_shares(
    groups: ChannelGroups, full: Mapping[str, float]
) -> list[tuple[keras.layers.Layer, float]]:
    """Every dropout layer, with the share of what it is given that is left of the full network."""
    before = [full[group.name] / group.size for group in groups]
    shares: dict[int, tuple[keras.layers.Layer, float]] = {}
    for layer, tensor in _dropouts(ks.functional_of(groups.trace.model)):
        labels = groups.trace.tensors[id(tensor)].ravel()
        gone = sum(
            np.count_nonzero(neurons >= 0) * (before[number] - 1)
            for number, neurons in groups.neurons_of(labels).items()
        )
        # A layer that is called several times drops as the call that lost least can bear.
        share = max(len(labels) / (len(labels) + gone), shares.get(id(layer), (layer, 0.0))[1])
        shares[id(layer)] = (layer, share)
    return list(shares.values())


def _dropouts(functional: keras.Model) -> Iterator[tuple[keras.layers.Layer, keras.KerasTensor]]:
    """Dropout layers and what they are given, also those of models in the model."""
    for node in ks.nodes_in_order(functional):
        if isinstance(node.operation, LAYERS):
            yield node.operation, ks.input_tensors(node)[0]
        elif isinstance(node.operation, keras.Model):
            inner = ks.functional_of(node.operation)
            if inner is not None:  # not a subclassed one, into which nothing is followed
                yield from _dropouts(inner)
