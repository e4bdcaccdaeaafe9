"""The pruning engine: scores, soft masks, hard pruning and rebuilds of one model in training."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping

import keras
import numpy as np

from keras_dynhp.costs.target import Target
from keras_dynhp.criteria.criterion import Criterion
from keras_dynhp.graph.groups import ChannelGroups
from keras_dynhp.keras_state.model import renew_train_step
from keras_dynhp.keras_state.optimizer import hook_update_step, variable_key
from keras_dynhp.keras_state.strided import sidestep_strided_kernels
from keras_dynhp.pruning.averages import averages_of
from keras_dynhp.pruning.dropout import weaken_dropout
from keras_dynhp.pruning.fading import Fading, Originals, follow_rebuild, restore
from keras_dynhp.pruning.following import follow
from keras_dynhp.pruning.frozen import find_unfrozen_groups
from keras_dynhp.pruning.gates import GateMeter
from keras_dynhp.pruning.goals import Goals
from keras_dynhp.pruning.numbering import Numbering
from keras_dynhp.pruning.pace import learning_rate_factor, shrinkage
from keras_dynhp.pruning.selection import select
from keras_dynhp.rebuild.checks import check_layers
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
        self.groups, self.numbering = engine.groups, engine.numbering.copy()
        self.network = FormerNetwork(engine.model)
        write_tree(path, engine.get_state() if state is None else state)

    def state(self) -> dict:
        """The engine's state of then."""
        return read_tree(self.path)


class Engine:
    """Prunes the model a user is training, a little at a time.

    At the beginning of an interval the neurons that will be next to go are put on trial: over the
    interval they fade out of the network, and go on learning (soft pruning). At its end those that
    are still worth least are removed (hard pruning); the others come back as they were. What is
    removed has faded, so the rebuilt network computes what the validated one did. While the engine
    watches, the learning rates of variables that have become smaller are larger (see `pace`), and
    dropout is weaker where neurons have gone (see `dropout`).

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
        self.groups = find_unfrozen_groups(model, prune_inputs)
        self.goals = Goals(self.groups, target, round_to)
        self.goals.check(model, self.groups)
        with scope_of(model):
            check_layers(self.groups.trace)
        self._meter: GateMeter | None = None
        self._trial: Fading | None = None
        self._acquitted: Originals = []  # weights of a trial that is over, to come back
        # How many updates the last pruning interval had, were each as large as `_pace` says.
        self._interval = 0.0
        self._pace = 1.0
        self._began = 0  # ... and the optimizer's count at the beginning of this one
        self._unhook: list[Callable[[], None]] = []
        self.optimizer = model.optimizer
        self._scores: dict[str, np.ndarray] = {}
        self.numbering = Numbering(self.groups)

    # ---- what is asked -----------------------------------------------------------------------

    @property
    def neurons(self) -> int:
        """What is left of all neurons that might be pruned at the beginning."""
        return sum(self.widths().values())

    def widths(self) -> dict[str, int]:
        """The width of every group of the beginning, also of those that are kept whole by now."""
        return self.numbering.widths()

    def missed(self) -> dict[str, tuple[float, float]]:
        """By resource: what the network has now and the most it may have, where it has more."""
        return self.goals.missed(self.groups)

    @property
    def on_target(self) -> bool:
        """Whether the network is small enough now."""
        return not self.missed()

    @property
    def has_evidence(self) -> bool:
        """Whether anything has been seen by which neurons can be told from each other."""
        means = self._means() or {}
        return not self.criterion.uses_gradients or any(mean.any() for mean in means.values())

    def owns(self, model: keras.Model) -> bool:
        """Whether this is the engine of a model, and nobody else has changed its graph."""
        mine = [entry.variable for entry in self.groups.trace.variables.values()]
        theirs = {id(variable) for variable in model.variables}
        # Keras does not list the states that a recurrent layer keeps from batch to batch.
        return self.model is model and all(id(v) in theirs for v in mine if v.trainable)

    # ---- the cycle ----------------------------------------------------------------------------

    def follow_freezing(self) -> bool:
        """Between two fits: layers may have been frozen or unfrozen since; says whether they were.

        Raises:
            ValueError: if the target can't be reached with what is frozen now.
        """
        groups = find_unfrozen_groups(self.model, self.prune_inputs)
        if [group.name for group in groups] == [group.name for group in self.groups]:
            return False
        if self.goals.missed(groups):
            self.goals.check(self.model, groups)
        variables = self.groups.trace.variables.values()
        self._follow(groups, {id(e.variable): Transfer(e.variable, e.variable) for e in variables})
        return True

    def watch(self) -> None:
        """Begin to gather scores from the training step."""
        other = _in_charge.get(id(self.model))
        if other is not None and other is not self and other.model is self.model:
            other.release()  # its fit was interrupted
        _in_charge[id(self.model)] = self
        sidestep_strided_kernels(self.model)
        self._began = self._updates()
        self._hook(self._means(), self._steps())

    def release(self) -> None:
        """Stop: end a trial that is going on, leave nothing of ours in the training step."""
        self._acquit()
        self._disarm()
        renew_train_step(self.model)

    def mask_next(self, fraction: float, pace: float = 1.0) -> None:
        """Put on trial what would have to go to be at `fraction`; earlier trials are over.

        Args:
            fraction: of the way to the target.
            pace: how large the steps of this interval are, by the samples in them: a trial must
                be over when its interval is, also where the batch has just grown.
        """
        self._pace = pace
        on_trial = self._trial is not None
        self._acquit()
        chosen = None
        if fraction > 0 and self._scores:
            masks = select(
                self.groups, self._scores, self.goals.at(self.groups, fraction), self.round_to
            )
            chosen = {name: mask for name, mask in masks.items() if not mask.all()}
        if chosen:
            self._trial = Fading(self.groups, chosen, self.model.optimizer, self._trial_steps())
        if chosen or on_trial:
            self._hook(self._means(), self._steps())

    def prune(self, fraction: float) -> int:
        """Remove what is due at `fraction`; returns how many neurons went.

        Of the neurons due, those that were on trial go; on arrival (fraction 1) all of them do.
        """
        means = self._means()
        updates = self._updates() - self._began
        if updates:
            self._interval, self._began = updates * self._pace, self._updates()
        self._scores = self.criterion.scores(self.groups, means)
        if fraction <= 0:
            return 0
        due = select(self.groups, self._scores, self.goals.at(self.groups, fraction), self.round_to)
        if fraction < 1:
            due = {name: mask | ~self._is_on_trial(name) for name, mask in due.items()}
        gone = sum(int((~mask).sum()) for mask in due.values())
        if gone:
            self._remove({n: m for n, m in due.items() if not m.all()}, means)
        return gone

    def _is_on_trial(self, name: str) -> np.ndarray:
        if self._trial is None or name not in self._trial.masks:
            return np.zeros(self.groups[name].size, bool)
        return ~self._trial.masks[name]

    def _remove(self, keep: Mapping[str, np.ndarray], means) -> None:
        steps = self._steps()
        self.numbering.remove(keep, self._scores)
        plan = plan_rebuild(self.groups, self.groups.survivors(keep))
        originals = self._trial.originals() if self._trial else []
        self._disarm()
        moves = {id(move.old): move for move in rebuild_in_place(plan)}
        self._trial = None  # its weights are gone: should anything below fail, none come back
        self._acquitted = follow_rebuild(originals, moves)
        self._follow(find_unfrozen_groups(self.model, self.prune_inputs), moves, means, steps)

    def _follow(self, groups: ChannelGroups, moves, means=None, steps: int = 0) -> None:
        """Go on with the groups that the model has now."""
        origins, self.groups = self.numbering.follow(self.groups, groups, moves), groups
        self._scores = follow(self._scores, origins)
        if any(group.name not in self._scores for group in groups):
            self._scores = {}  # neurons are compared with each other: of all or of none
        self._hook(follow(means or {}, origins) or None, steps)

    def _acquit(self) -> None:
        """Give the neurons that came through their trial the weights they had before it."""
        if self._trial is not None:
            self._acquitted, self._trial = self._trial.originals(), None
        restore(self._acquitted)
        restore(averages_of(self.model.optimizer, self._acquitted))
        self._acquitted = []

    def _trial_steps(self) -> int:
        """How many updates a trial that begins now is expected to last."""
        interval = self._interval or self._updates() - self._began
        return max(1, round(interval / self._pace))

    def _updates(self) -> int:
        """How often the optimizer has updated the weights."""
        return int(self.model.optimizer.iterations.numpy())

    # ---- states ---------------------------------------------------------------------------------

    def get_state(self) -> dict:
        """Everything that training goes on with, as plain values and arrays.

        The network and its optimizer, which neurons it has, and what is known of them. Neurons
        have the numbers of the full network's.
        """
        masks = self._trial.masks if self._trial else {}
        originals = self._trial.originals() if self._trial else self._acquitted
        position = {id(v): number for number, v in enumerate(state_variables(self.model))}
        return {
            **self.numbering.get_state(),
            "network": get_values(self.model),
            "means": self.numbering.by_origin(self._means() or {}),
            "steps": self._steps(),
            "scores": self.numbering.by_origin(self._scores),
            "masks": self.numbering.by_origin(masks),
            "originals": [[position[id(variable)], *rest] for variable, *rest in originals],
            "interval": [self._interval, self._updates() - self._began, self._pace],
            "criterion": self.criterion.get_state(),
        }

    def set_state(self, state: dict) -> None:
        """From the full network, in a fit: become what `get_state` described.

        Raises:
            ValueError: the state is that of another network (nothing is changed then), or of
                another optimizer.
        """
        keep = self.numbering.take_over(state, self.groups)
        self._disarm()
        if keep:
            self._remove(keep, None)
        self.numbering.set_state(state)
        set_values(self.model, state["network"])
        self._go_on(state)

    def go_back(self, memory: Memory) -> None:
        """Be the network that is remembered; the optimizer's clock goes on."""
        state = memory.state()
        self._disarm()
        self._trial, self._acquitted = None, []
        memory.network.come_back(state["network"])
        self.groups, self.numbering = memory.groups, memory.numbering.copy()
        self._go_on(state)

    def _go_on(self, state: dict) -> None:
        """Take up what a state knows of the network that the model now is."""
        self._scores = self.numbering.from_origin(state["scores"], self.groups)
        variables = state_variables(self.model)
        self._acquitted = [
            (variables[number], values, where.astype(bool))
            for number, values, where in state["originals"]
        ]
        self._interval, since, self._pace = (float(number) for number in state["interval"])
        self._began = self._updates() - int(since)
        masks = {
            name: mask.astype(bool)
            for name, mask in self.numbering.from_origin(state["masks"], self.groups).items()
        }
        if masks:
            self._trial = Fading(
                self.groups, masks, self.model.optimizer, self._trial_steps(), self._acquitted
            )
            self._acquitted = []
        self.criterion.set_state(state["criterion"])
        self._hook(
            self.numbering.from_origin(state["means"], self.groups) or None, int(state["steps"])
        )

    # ---- the hook in the training step ---------------------------------------------------------

    def _means(self) -> dict[str, np.ndarray] | None:
        return self._meter.means() if self._meter else None

    def _steps(self) -> int:
        return self._meter.steps if self._meter else 0

    def _hook(self, means, steps: int) -> None:
        self._disarm()
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        meter = None
        if self.criterion.uses_gradients:
            with scope_of(self.model):
                meter = GateMeter(self.groups, optimizer, start=means, steps=steps)
        self._meter, trial, self.optimizer = meter, self._trial, optimizer
        full = self.numbering.widths_before(self.groups)
        shrunk = {
            variable_key(optimizer, entry.variable): factor
            for key, factor in shrinkage(self.groups, full).items()
            if factor != 1 and (entry := self.groups.trace.variables.get(key))
        }

        def before(gradient, variable):
            if meter is None:
                return None
            return meter.read(variable_key(self.optimizer, variable), gradient, variable)

        def after(variable):
            if trial is not None:
                trial.after_update(variable_key(self.optimizer, variable), variable)

        def pace(leaf, variable):
            factor = shrunk.get(variable_key(self.optimizer, variable), 1.0)
            return learning_rate_factor(leaf, factor)

        if meter is not None or trial is not None or shrunk:
            self._unhook.append(hook_update_step(optimizer, before, after, pace))
        self._unhook.append(weaken_dropout(self.groups, full))
        renew_train_step(self.model)

    def _disarm(self) -> None:
        while self._unhook:
            self._unhook.pop()()
