"""A trial's pruned network on disk, where Keras Tuner looks for the full one's weights."""

from __future__ import annotations

import os
from dataclasses import dataclass

import keras
import numpy as np

from keras_dynhp.pruning.frozen import find_unfrozen_groups
from keras_dynhp.rebuild.in_place import rebuild_in_place
from keras_dynhp.rebuild.plan import plan_rebuild
from keras_dynhp.saving.files import read_tree, replace_file, write_tree
from keras_dynhp.saving.networks import state_variables
from keras_dynhp.tuner.rates import FullNetwork

ENDING = ".pruned.npz"


class Checkpoint:
    """What Keras Tuner's own `SaveBestEpoch` callback was told: where to save, and for what.

    That callback saves the epoch with the best objective, which is one of the full network before
    any pruning; it is taken out of the list, and the finished network is saved instead.

    Args:
        callbacks: what the tuner gave `HyperModel.fit`; its checkpoint is taken out of the list.
    """

    def __init__(self, callbacks: list[keras.callbacks.Callback]):
        found = [c for c in callbacks if hasattr(c, "objective") and hasattr(c, "filepath")]
        for callback in found:
            callbacks.remove(callback)
        self._callback = found[0] if found else None

    @property
    def objective(self):
        """Keras Tuner's objective; None where no tuner gave one."""
        return self._callback.objective if self._callback else None

    @property
    def path(self) -> str | None:
        """The file of the weights; None where no tuner gave one."""
        return str(self._callback.filepath) if self._callback else None

    def save_if_best(self, model: keras.Model, stages: list[Stage], metrics: dict) -> None:
        """Keep the finished network if no other execution of this trial has done better."""
        if self._callback is None:
            return
        objective = self.objective
        if objective.has_value(metrics):
            value = objective.get_value(metrics)
            if not objective.better_than(value, self._callback.best_value):
                return
            self._callback.best_value = value
        save(model, self.path, stages)


@dataclass(frozen=True)
class Stage:
    """What one training run removed, of the network that it began with.

    Attributes:
        prune_inputs: whether input features were among the groups.
        removed: for each group in the order of `find_groups`, the numbers of neurons that went.
    """

    prune_inputs: bool
    removed: list[np.ndarray]


def save(model: keras.Model, path: str, stages: list[Stage]) -> None:
    """Write the weights to `path`, and beside it how the full network becomes this one."""
    tree = {
        "stages": [{"prune_inputs": s.prune_inputs, "removed": s.removed} for s in stages],
        "variables": [np.asarray(variable) for variable in state_variables(model)],
    }
    replace_file(path, model.save_weights)
    write_tree(path + ENDING, tree)


class LoadsPruned:
    """Stands in for `load_weights` of a full network that may have been saved pruned.

    Keras Tuner loads a trial by building the full network and calling `load_weights`. Where a
    pruned network was saved there, the full one is rebuilt into it first. No code is read from
    the file: whatever layers the network has, they are those of the user's own function.

    Args:
        model: the full network, as the user's function built it.

    Attributes:
        full: the network as it was built.
        stages: what has been removed of it by what was loaded.
    """

    def __init__(self, model: keras.Model):
        self.full = FullNetwork.of(model)
        self.stages: list[Stage] = []
        self._model = model
        model.load_weights = self

    @classmethod
    def of(cls, model: keras.Model) -> LoadsPruned:
        """The one of a model; a model that came some other way is taken for a full one."""
        found = vars(model).get("load_weights")
        return found if isinstance(found, cls) else cls(model)

    def __call__(self, filepath, **kwargs) -> None:
        model = self._model
        if not os.path.exists(str(filepath) + ENDING):
            type(model).load_weights(model, filepath, **kwargs)
            return
        tree = read_tree(str(filepath) + ENDING)
        stages = [Stage(s["prune_inputs"], s["removed"]) for s in tree["stages"]]
        # Hyperband loads the trial that this one went on from first.
        for stage in stages[len(self.stages) :]:
            _remove(model, stage, filepath)
            self.stages.append(stage)
        variables = state_variables(model)
        wanted = [tuple(variable.shape) for variable in variables]
        found = [value.shape for value in tree["variables"]]
        if wanted != found:
            raise ValueError(_another(filepath, f"variables of shapes {wanted}", found))
        for variable, value in zip(variables, tree["variables"]):
            variable.assign(value)

    def leave(self) -> None:
        """Leave nothing of ours in the model."""
        del self._model.load_weights


def _remove(model: keras.Model, stage: Stage, filepath) -> None:
    groups = find_unfrozen_groups(model, stage.prune_inputs)
    if len(list(groups)) != len(stage.removed):
        raise ValueError(_another(filepath, f"{len(list(groups))} groups", len(stage.removed)))
    keep = {}
    for group, removed in zip(groups, stage.removed):
        if len(removed) == 0:
            continue
        if max(removed) >= group.size:
            raise ValueError(_another(filepath, f"a group of {group.size}", max(removed)))
        keep[group.name] = np.ones(group.size, bool)
        keep[group.name][removed] = False
    if keep:
        rebuild_in_place(plan_rebuild(groups, groups.survivors(keep)))


def _another(filepath, wanted, found) -> str:
    return (
        f"{filepath} was saved from another network than the model-building function makes now, "
        f"which has {wanted}. Found: {found}. Use the function that the search was run with, or "
        "another directory."
    )
