"""The values of a network and its optimizer as plain arrays, and networks that were."""

from __future__ import annotations

import keras
import numpy as np

from keras_dynhp.keras_state.model import adopt, graph_of
from keras_dynhp.keras_state.optimizer import built_on, optimizer_tree, variable_key
from keras_dynhp.keras_state.optimizer_slots import Slot, build_anew, find_slots
from keras_dynhp.rebuild.release import put_value, release_variable

__all__ = ["FormerNetwork", "get_values", "set_values", "state_variables"]


def state_variables(model: keras.Model) -> list[keras.Variable]:
    """The variables of a model that outlive an epoch: weights, statistics, seeds; not metrics."""
    metrics = {id(variable) for metric in model.metrics for variable in metric.variables}
    return [variable for variable in model.variables if id(variable) not in metrics]


def get_values(model: keras.Model) -> dict:
    """The values of a model's variables and of its optimizer's, as `set_values` takes them."""
    optimizers = []
    for node, slots, others in _optimizer_state(model):
        optimizers.append(
            {
                "slots": {_key(node, slot): np.asarray(slot.variable) for slot in slots},
                "others": {variable.name: np.asarray(variable) for variable in others},
            }
        )
    return {
        "variables": [np.asarray(variable) for variable in state_variables(model)],
        "optimizers": optimizers,
    }


def set_values(model: keras.Model, values: dict, clock: bool = True) -> None:
    """Give a model and its optimizer values that `get_values` read.

    Args:
        model: has the widths that it had then; its variables may have been released.
        values: what `get_values` returned.
        clock: whether to set iteration count and learning rate, too.

    Raises:
        ValueError: the values are those of another network or optimizer; nothing is changed.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not optimizer.built:
        optimizer.build(model.trainable_variables)
    variables = state_variables(model)
    pairs = list(zip(variables, values["variables"]))
    if len(variables) != len(values["variables"]):
        raise ValueError(
            f"These values are those of another network: model {model.name!r} has "
            f"{len(variables)} variables. Received {len(values['variables'])} values."
        )
    state = _optimizer_state(model)
    if len(state) != len(values["optimizers"]):
        raise ValueError(
            "These values are those of another kind of optimizer. Received: the values of "
            f"{len(values['optimizers'])} nested optimizers for {len(state)}."
        )
    for (node, slots, others), saved in zip(state, values["optimizers"]):
        wanted = {_key(node, slot): slot.variable for slot in slots}
        if set(wanted) != set(saved["slots"]):
            raise ValueError(
                f"These values are those of another optimizer than {node.name!r}: they differ in "
                f"{sorted(set(wanted) ^ set(saved['slots']))}."
            )
        pairs += [(variable, saved["slots"][key]) for key, variable in wanted.items()]
        if clock:
            pairs += [(v, saved["others"][v.name]) for v in others if v.name in saved["others"]]
    for variable, value in pairs:
        if tuple(variable.shape) != tuple(np.shape(value)):
            raise ValueError(
                f"These values are those of another network: {variable.path!r} has shape "
                f"{tuple(variable.shape)}. Received a value of shape {np.shape(value)}."
            )
    for variable, value in pairs:
        put_value(variable, value)


class FormerNetwork:
    """A network that a model once was: its graph without its values.

    A rebuild gives back the memory of the old variables, but their Python objects can be filled
    again; so going back to a wider network needs only its values, which can lie on disk.

    Args:
        model: the compiled model as it is now.
    """

    def __init__(self, model: keras.Model):
        self._model = model
        self._graph = graph_of(model)
        self._variables = state_variables(model)
        self._built_on = built_on(model.optimizer)

    def come_back(self, values: dict) -> None:
        """Make the model this network again; the clock of its optimizer goes on.

        The memory of what the model is instead is given back first.

        Args:
            values: what `get_values` returned then.
        """
        model, optimizer = self._model, self._model.optimizer
        now = state_variables(model)
        if [id(variable) for variable in now] != [id(variable) for variable in self._variables]:
            then = {layer.name: layer for layer in self._graph.layers}
            pairs = [(layer, then[layer.name]) for layer in model.layers if layer.name in then]
            successors = list(zip(built_on(optimizer), self._built_on))
            for _, slots, _ in _optimizer_state(model):
                for slot in slots:
                    release_variable(slot.variable)
            for variable in now:
                release_variable(variable)
            for variable, value in zip(self._variables, values["variables"]):
                put_value(variable, value)  # some optimizers build slots from values
            adopt(model, self._graph, pairs)
            build_anew(optimizer, successors)
        set_values(model, values, clock=False)


def _optimizer_state(model: keras.Model) -> list[tuple[object, list[Slot], list]]:
    """For each optimizer, inner ones first: its slots, and its other own variables."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return []
    seen = {id(variable) for variable in built_on(optimizer)}
    state = []
    for node in reversed(optimizer_tree(optimizer)):
        slots = [slot for slot in find_slots(node) if id(slot.variable) not in seen]
        seen.update(id(slot.variable) for slot in slots)
        others = [variable for variable in node.variables if id(variable) not in seen]
        seen.update(id(variable) for variable in others)
        state.append((node, slots, others))
    return state


def _key(optimizer, slot: Slot) -> str:
    """A slot's place in words that mean the same in another process."""
    numbers = {
        variable_key(optimizer, variable): f"#{number}"
        for number, variable in enumerate(built_on(optimizer))
    }
    return "/".join(str(numbers.get(step, step)) for step in slot.place)
