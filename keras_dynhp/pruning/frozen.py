"""What training may prune where layers are frozen."""

from __future__ import annotations

import keras

from keras_dynhp.graph.groups import ChannelGroup, ChannelGroups, find_groups
from keras_dynhp.pruning.gates import gate_places


def find_unfrozen_groups(model: keras.Model, prune_inputs: bool = False) -> ChannelGroups:
    """As `find_groups`, for training: what frozen weights read stays whole.

    A frozen layer has no gradients that would tell what the neurons are worth that it reads, and
    cannot make up for those that go. Of a pretrained network that is frozen, that is all but the
    features that the new layers read. `prune` takes from frozen layers, too: it has gradients of
    its own, and what is trained afterwards is for the user to say.
    """
    groups = find_groups(model, prune_inputs)
    reasons = {group.name: _frozen(group) for group in groups}
    groups.keep({name: reason for name, reason in reasons.items() if reason is not None})
    return groups


def _frozen(group: ChannelGroup) -> str | None:
    places = gate_places(group)
    frozen = [place for place in places if not place.variable.trainable]
    is_read = places[0].role == "in"
    if not frozen or (not is_read and len(frozen) < len(places)):
        return None
    return f"{'read' if is_read else 'made'} by frozen layers"
