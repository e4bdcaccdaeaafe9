"""The pruning engine: scores, soft masks, hard pruning and rebuilds of one model in training."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras
import numpy as np

from keras_dynhp.costs.target import Target
from keras_dynhp.criteria.criterion import Criterion
from keras_dynhp.graph.groups import ChannelGroups, find_groups
from keras_dynhp.keras_state.model import renew_train_step
from keras_dynhp.keras_state.optimizer import hook_update_step, variable_key
from keras_dynhp.pruning.gates import GateMeter
from keras_dynhp.pruning.goals import Goals
from keras_dynhp.pruning.selection import select
from keras_dynhp.pruning.soft_masks import SoftMasks
from keras_dynhp.rebuild.in_place import rebuild_in_place, scope_of
from keras_dynhp.rebuild.plan import plan_rebuild
from keras_dynhp.rebuild.transfer import Transfer


class Engine:
    """Prunes the model a user is training, a little at a time.

    At the beginning of an epoch the neurons that will be next to go are masked (soft pruning) and
    keep learning behind the mask. At its end those that are still worth least are removed (hard
    pruning); the others come back. What is removed has been silent all epoch, so the rebuilt
    network computes what the validated one did.

    Args:
        model: the user's compiled model.
        target: what the final network must satisfy.
        criterion: what a neuron is worth.
        prune_inputs: whether input features may go.
        round_to: widths end at multiples of this.
    """

    def __init__(
        self,
        model: keras.Model,
        target: Target,
        criterion: Criterion,
        prune_inputs: bool = False,
        round_to: int = 1,
    ):
        self.model = model
        self.criterion = criterion
        self.prune_inputs = prune_inputs
        self.round_to = round_to
        self.groups = find_groups(model, prune_inputs)
        self.goals = Goals(self.groups, target)
        self.goals.check(model, self.groups, round_to)
        self._meter: GateMeter | None = None
        self._soft: SoftMasks | None = None
        self._dormant: list[tuple[keras.Variable, np.ndarray]] = []
        self._unhook: Callable | None = None
        self._scores: dict[str, np.ndarray] = {}
        self.names = {group.name: group.name for group in self.groups}  # now -> at the beginning

    # ---- what is asked -----------------------------------------------------------------------

    @property
    def neurons(self) -> int:
        """Neurons in groups that may be pruned, as they are now."""
        return self.groups.neurons

    def widths(self) -> dict[str, int]:
        """The width of every prunable group."""
        return {self.names[group.name]: group.size for group in self.groups}

    # ---- the cycle ----------------------------------------------------------------------------

    def watch(self) -> None:
        """Begin to gather scores from the training step."""
        self._hook(self._meter.means() if self._meter else None)

    def release(self) -> None:
        """Stop: lift every mask that is left, leave nothing of ours in the training step."""
        self._wake()
        self._disarm()

    def mask_next(self, fraction: float) -> None:
        """Mask what would have to go to be at `fraction`; what was masked and survived returns."""
        self._wake()
        chosen = None
        if fraction > 0 and self._scores:
            masks = select(
                self.groups, self._scores, self.goals.at(self.groups, fraction), self.round_to
            )
            chosen = {name: mask for name, mask in masks.items() if not mask.all()}
        if not chosen and self._soft is None:
            return
        means = self._means()
        self._soft = None
        if chosen:
            with scope_of(self.model):
                self._soft = SoftMasks(self.groups, chosen, self.model.optimizer)
        self._hook(means)

    def prune(self, fraction: float) -> int:
        """Remove what is due at `fraction`; returns how many neurons went.

        Of the neurons due, those that were on trial behind a mask go; on arrival (fraction 1)
        all of them do.
        """
        means = self._means()
        self._scores = self.criterion.scores(self.groups, means)
        if fraction <= 0:
            return 0
        due = select(self.groups, self._scores, self.goals.at(self.groups, fraction), self.round_to)
        if fraction < 1:
            due = {name: mask | self._awake(name) for name, mask in due.items()}
        gone = sum(int((~mask).sum()) for mask in due.values())
        if gone:
            self._remove({n: m for n, m in due.items() if not m.all()}, means)
        return gone

    def _awake(self, name: str) -> np.ndarray:
        if self._soft is None or name not in self._soft.masks:
            return np.ones(self.groups[name].size, bool)
        return self._soft.masks[name]

    def _remove(self, keep: Mapping[str, np.ndarray], means) -> None:
        plan = plan_rebuild(self.groups, self.groups.survivors(keep))
        sleeping = self._soft.lifted_values() if self._soft else []
        self._disarm()
        moves = {id(move.old): move for move in rebuild_in_place(plan)}
        self._dormant = [
            (moves[id(variable)].new, moves[id(variable)].take(value))
            for variable, value in sleeping
        ]
        before, self.groups = self.groups, find_groups(self.model, self.prune_inputs)
        origins = _origins(before, self.groups, moves)
        self.names = {name: self.names[old] for name, (old, _) in origins.items()}
        self._scores = _follow(self._scores, origins)
        self._soft = None
        self._hook(_follow(means, origins) if means else None)

    def _wake(self) -> None:
        """Give the neurons that came through their trial their weights back."""
        if self._soft is not None:
            self._dormant = self._soft.lifted_values()
        for variable, value in self._dormant:
            variable.assign(value)
        self._dormant = []

    # ---- the hook in the training step ---------------------------------------------------------

    def _means(self) -> dict[str, np.ndarray] | None:
        return self._meter.means() if self._meter else None

    def _hook(self, means) -> None:
        self._disarm()
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        meter = None
        if self.criterion.uses_gradients:
            with scope_of(self.model):
                meter = GateMeter(self.groups, optimizer, start=means)
        self._meter, soft = meter, self._soft
        if meter is None and soft is None:
            renew_train_step(self.model)
            return

        def before(gradient, variable):
            key = variable_key(optimizer, variable)
            if meter is not None:
                weights = soft.lifted(key, variable) if soft else variable
                meter.read(key, gradient, variable, weights)

        def after(variable):
            if soft is not None:
                soft.after_update(variable_key(optimizer, variable), variable)

        self._unhook = hook_update_step(optimizer, before, after)
        renew_train_step(self.model)

    def _disarm(self) -> None:
        if self._unhook is not None:
            self._unhook()
            self._unhook = None


def _origins(
    before: ChannelGroups, after: ChannelGroups, moves: Mapping[int, Transfer]
) -> dict[str, tuple[str, np.ndarray]]:
    """For every group after a rebuild, the group it was and the number each neuron had there."""
    old_places = {}
    for group in before:
        for place in group.places:
            old_places.setdefault((id(place.variable), place.axis), []).append((group, place))
    old_of = {id(move.new): move for move in moves.values()}
    origins = {}
    for group in after:
        place = group.places[0]
        move = old_of[id(place.variable)]
        positions = np.zeros(group.size, np.int64)
        inside = place.index >= 0
        positions[place.index[inside]] = np.flatnonzero(inside)
        kept = move.keep.get(place.axis)
        positions = positions if kept is None else np.asarray(kept)[positions]
        for old_group, old_place in old_places[id(move.old), place.axis]:
            numbers = old_place.index[positions]
            if (numbers >= 0).all():
                origins[group.name] = (old_group.name, numbers)
    return origins


def _follow(values: Mapping[str, np.ndarray], origins) -> dict[str, np.ndarray]:
    """Per-neuron values of the groups before a rebuild, for those after it."""
    return {name: np.asarray(values[old])[numbers] for name, (old, numbers) in origins.items()}
