"""What a client keeps for itself from round to round: its optimizer and what its budget learned."""

from __future__ import annotations

import io
import re

import numpy as np
from flwr.app import ConfigRecord, Context

from keras_dynhp.federated.live import LiveNetwork
from keras_dynhp.keras_state.optimizer import built_on
from keras_dynhp.memory.budget import Budget
from keras_dynhp.saving.files import read_tree, tree_bytes
from keras_dynhp.saving.networks import get_values, set_values

__all__ = ["recall", "recall_budget", "remember"]

# The record's name in the context that Flower keeps beside the client; it never leaves the node.
_RECORD = "keras_dynhp"


def remember(context: Context, live: LiveNetwork, budget: Budget | None) -> None:
    """Keep the state of a client's optimizer after a round."""
    state = {
        "fingerprint": live.layout.fingerprint,
        "part": live.part,
        "optimizers": get_values(live.model)["optimizers"],
        "budget": None if budget is None else budget.get_state(),
    }
    context.state[_RECORD] = ConfigRecord({"state": tree_bytes(state)})


def recall(context: Context, live: LiveNetwork) -> None:
    """Give a client's optimizer what survives of its state.

    Slots follow their variables: what belongs to neurons that the client had and still has stays,
    neurons that are new to it start afresh, and so does a slot that hasn't its variable's shape.
    The optimizer's clock goes on.

    Args:
        context: as Flower hands it over.
        live: the client's network in its widths of now, with an optimizer that is built.
    """
    state = _read(context)
    if state is None or state["fingerprint"] != live.layout.fingerprint:
        return
    layout, then = live.layout, state["part"].astype(bool)
    both = then & live.part
    if not all(layout.widths(both)):
        return  # of some group nothing is left that it knows
    shapes = layout.shapes(then)
    sources, places = layout.places(both, then), layout.places(both, live.part)
    number_of = {id(variable): number for number, variable in enumerate(live.variables)}
    variables = [number_of.get(id(v)) for v in built_on(live.model.optimizer)]
    values = get_values(live.model)
    for fresh, old in zip(values["optimizers"], state["optimizers"]):
        fresh["others"].update({k: v for k, v in old["others"].items() if k in fresh["others"]})
        for key, slot in fresh["slots"].items():
            before = old["slots"].get(key)
            if before is None:
                continue
            number = _variable_of(key, variables)
            if number is not None and before.shape == shapes[number]:
                value = slot.copy()
                value[_mesh(places[number], value)] = before[_mesh(sources[number], before)]
                fresh["slots"][key] = value
            elif before.shape == slot.shape:
                fresh["slots"][key] = before
    set_values(live.model, values)


def recall_budget(context: Context, budget: Budget) -> None:
    """Give a client's budget what it learned in earlier rounds."""
    state = _read(context)
    if state is not None and state["budget"] is not None:
        budget.set_state(state["budget"])


def _read(context: Context) -> dict | None:
    record = context.state.config_records.get(_RECORD)
    return None if record is None else read_tree(io.BytesIO(record["state"]))


def _variable_of(key: str, variables: list[int | None]) -> int | None:
    """The number of the variable to which a slot belongs; keys hold `#` and its place."""
    found = re.search(r"#(\d+)", key)
    return variables[int(found[1])] if found and int(found[1]) < len(variables) else None


def _mesh(places, array: np.ndarray):
    return np.ix_(*(places.get(axis, np.arange(n)) for axis, n in enumerate(array.shape)))
