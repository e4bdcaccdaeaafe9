"""The pruning engine: scores, soft masks, hard pruning and rebuilds of one model in training."""

from __future__ import annotations

import os
import weakref
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
from keras_dynhp.saving.files import read_tree, write_tree
from keras_dynhp.saving.networks import FormerNetwork, get_values, set_values, state_variables

# The engine that has its hook in a model's training step, by the model's id. A hook keeps its
# engine alive.
_in_charge: weakref.WeakValueDictionary[int, Engine] = weakref.WeakValueDictionary()


class Memory:
    """A network that an engine can go back to: its values on disk, only its graph in memory.

    Args:
        engine: what is to be remembered as it is now.
        path: the file to write, in one step.
        state: the engine's state, where it has been read off already.
    """

    def __init__(self, engine: Engine, path: str | os.PathLike, state: dict | None = None):
        self.path = path
        self.groups, self.origins = engine.groups, engine.origins
        self.network = FormerNetwork(engine.model)
        write_tree(path, engine.get_state() if state is None else state)

    def state(self) -> dict:
        """The engine's state of then."""
        return read_tree(self.path)


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
        self.optimizer = model.optimizer
        self._scores: dict[str, np.ndarray] = {}
        self._full_sizes = {group.name: group.size for group in self.groups}
        # For each group: its name at the beginning, and the number each neuron had then.
        self.origins = {g.name: (g.name, np.arange(g.size)) for g in self.groups}
        self.removed = {g.name: np.arange(0) for g in self.groups}  # numbers of the beginning

    # ---- what is asked -----------------------------------------------------------------------

    @property
    def neurons(self) -> int:
        """Neurons in groups that may be pruned, as they are now."""
        return self.groups.neurons

    def widths(self) -> dict[str, int]:
        """The width of every prunable group."""
        return {self.origins[group.name][0]: group.size for group in self.groups}

    @property
    def on_target(self) -> bool:
        """Whether the network is small enough now."""
        sizes = np.array([group.size for group in self.groups], float)
        return all(
            resource.value(sizes) <= goal for resource, goal in self.goals.at(self.groups, 1.0)
        )

    def owns(self, model: keras.Model) -> bool:
        """Whether this is the engine of a model, and nobody else has changed its graph."""
        mine = {id(entry.variable) for entry in self.groups.trace.variables.values()}
        return self.model is model and mine <= {id(variable) for variable in model.variables}

    # ---- the cycle ----------------------------------------------------------------------------

    def watch(self) -> None:
        """Begin to gather scores from the training step."""
        other = _in_charge.get(id(self.model))
        if other is not None and other is not self and other.model is self.model:
            other.release()  # its fit was interrupted
        _in_charge[id(self.model)] = self
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
        for name, mask in keep.items():
            origin, numbers = self.origins[name]
            self.removed[origin] = np.sort(np.append(self.removed[origin], numbers[~mask]))
        plan = plan_rebuild(self.groups, self.groups.survivors(keep))
        sleeping = self._soft.shadows() if self._soft else []
        self._disarm()
        moves = {id(move.old): move for move in rebuild_in_place(plan)}
        self._dormant = [
            (moves[id(variable)].new, moves[id(variable)].take(shadow))
            for variable, shadow in sleeping
        ]
        before, self.groups = self.groups, find_groups(self.model, self.prune_inputs)
        origins = _origins(before, self.groups, moves)
        was = self.origins
        self.origins = {name: (was[old][0], was[old][1][n]) for name, (old, n) in origins.items()}
        self._scores = _follow(self._scores, origins)
        self._soft = None
        self._hook(_follow(means or {}, origins) or None)

    def _wake(self) -> None:
        """Give the neurons that came through their trial their weights back."""
        if self._soft is not None:
            self._dormant = self._soft.shadows()
        for variable, shadow in self._dormant:
            # Added, as another callback may have changed the variable in the meantime.
            variable.assign_add(shadow)
        self._dormant = []

    # ---- states ---------------------------------------------------------------------------------

    def get_state(self) -> dict:
        """Everything that training goes on with, as plain values and arrays.

        The network and its optimizer, which neurons it has, and what is known of them. Neurons
        have the numbers of the full network's.
        """
        soft = self._soft.masks if self._soft else {}
        sleeping = self._soft.shadows() if self._soft else self._dormant
        position = {id(v): number for number, v in enumerate(state_variables(self.model))}
        return {
            "full": dict(self._full_sizes),
            "removed": dict(self.removed),
            "network": get_values(self.model),
            "means": self._by_origin(self._means() or {}),
            "steps": self._meter.steps if self._meter else 0,
            "scores": self._by_origin(self._scores),
            "masks": self._by_origin(soft),
            "sleeping": [[position[id(variable)], value] for variable, value in sleeping],
            "criterion": self.criterion.get_state(),
        }

    def set_state(self, state: dict) -> None:
        """From the full network, in a fit: become what `get_state` described.

        Raises:
            ValueError: the state is that of another network (nothing is changed then), or of
                another optimizer.
        """
        full = {name: int(size) for name, size in state["full"].items()}
        if full != self._full_sizes:
            raise ValueError(
                f"This state is that of another network than {self.model.name!r}, whose groups "
                f"have the widths {self._full_sizes}. Received: {full}."
            )
        keep = {}
        for group in self.groups:
            origin, numbers = self.origins[group.name]
            mask = ~np.isin(numbers, state["removed"][origin])
            if not mask.all():
                keep[group.name] = mask
        self._disarm()
        if keep:
            self._remove(keep, None)
        set_values(self.model, state["network"])
        self._go_on(state)

    def go_back(self, memory: Memory) -> None:
        """Be the network that is remembered; the optimizer's clock goes on."""
        state = memory.state()
        self._disarm()
        self._soft, self._dormant = None, []
        memory.network.come_back(state["network"])
        self.groups, self.origins = memory.groups, memory.origins
        self.removed = dict(state["removed"])
        self._go_on(state)

    def _go_on(self, state: dict) -> None:
        """Take up what a state knows of the network that the model now is."""
        self._scores = self._from_origin(state["scores"])
        variables = state_variables(self.model)
        self._dormant = [(variables[number], value) for number, value in state["sleeping"]]
        masks = {
            name: mask.astype(bool) for name, mask in self._from_origin(state["masks"]).items()
        }
        if masks:
            self._wake()
            with scope_of(self.model):
                self._soft = SoftMasks(self.groups, masks, self.model.optimizer)
        self.criterion.set_state(state["criterion"])
        self._hook(self._from_origin(state["means"]) or None, int(state["steps"]))

    def _by_origin(self, values: Mapping[str, np.ndarray]) -> dict:
        """Per-neuron values of groups, for each name at the beginning the numbers beside them."""
        result: dict[str, list] = {}
        for name, given in values.items():
            origin, numbers = self.origins[name]
            result.setdefault(origin, []).append([numbers, np.asarray(given)])
        return result

    def _from_origin(self, values: Mapping[str, list]) -> dict[str, np.ndarray]:
        """The other way round."""
        result = {}
        for group in self.groups:
            origin, numbers = self.origins[group.name]
            for known, given in values.get(origin, ()):
                place = np.searchsorted(known, numbers)
                if len(known) and np.array_equal(known[np.minimum(place, len(known) - 1)], numbers):
                    result[group.name] = given[place]
        return result

    # ---- the hook in the training step ---------------------------------------------------------

    def _means(self) -> dict[str, np.ndarray] | None:
        return self._meter.means() if self._meter else None

    def _hook(self, means, steps: int = 0) -> None:
        self._disarm()
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        meter = None
        if self.criterion.uses_gradients:
            with scope_of(self.model):
                meter = GateMeter(self.groups, optimizer, start=means, steps=steps)
        self._meter, soft = meter, self._soft
        self.optimizer = optimizer
        if meter is None and soft is None:
            renew_train_step(self.model)
            return

        def before(gradient, variable):
            key = variable_key(self.optimizer, variable)
            if meter is not None:
                weights = soft.lifted(key, variable) if soft else variable
                meter.read(key, gradient, variable, weights)

        def after(variable):
            if soft is not None:
                soft.after_update(variable_key(self.optimizer, variable), variable)

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
    return {
        name: np.asarray(values[old])[numbers]
        for name, (old, numbers) in origins.items()
        if old in values
    }
