"""Committing a plan to the model the user holds, its optimizer with it."""

from __future__ import annotations

import contextlib

import keras
import numpy as np

from keras_dynhp.keras_state.model import adopt
from keras_dynhp.rebuild.clone import clone_model
from keras_dynhp.rebuild.moves import settle, transfers
from keras_dynhp.rebuild.optimizer import plan_optimizer
from keras_dynhp.rebuild.plan import RebuildPlan
from keras_dynhp.rebuild.release import put_value, release_variable
from keras_dynhp.rebuild.transfer import Transfer


def rebuild_in_place(plan: RebuildPlan) -> list[Transfer]:
    """Make the model of a plan smaller: same object, surviving weights and optimizer state.

    Everything that can fail happens before anything of the model is changed. The memory of the
    old variables is given back before this returns, whoever still holds them.

    Args:
        plan: what stays, of the user's own model. The model may be compiled or not.

    Returns:
        Which old variable became which new one.
    """
    model, trace = plan.model, plan.groups.trace
    with scope_of(model):
        clone = clone_model(trace, plan.survivors)
        moves = transfers(trace, clone, plan.keep)
    optimizer = getattr(model, "optimizer", None)
    optimizer_plan = None
    if optimizer is not None:
        # A user's own `train_step` may train layers beside the graph, which stay as they are.
        inside = {id(move.old) for move in moves}
        beside = [Transfer(v, v) for v in model.trainable_variables if id(v) not in inside]
        optimizer_plan = plan_optimizer(optimizer, [*moves, *beside])
    # From here on nothing is expected to fail. Old and new weights are small beside the gradients
    # and activations of a training step, none of which is alive between two steps.
    for move in moves:
        value = move.take(np.asarray(move.old))
        release_variable(move.old)
        put_value(move.new, value)
    settle(trace, clone)
    if optimizer_plan is not None:
        optimizer_plan.commit()
    adopt(model, clone.model, clone.pairs_and_models(trace))
    return moves


def scope_of(model: keras.Model):
    """The scope in which a model's variables must be made."""
    strategy = model.distribute_strategy
    return strategy.scope() if strategy is not None else contextlib.nullcontext()
