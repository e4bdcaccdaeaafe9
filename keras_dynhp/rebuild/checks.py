"""Whether every layer can be made anew, while there is nothing to lose yet."""

from __future__ import annotations

import random

import numpy as np

from keras_dynhp.graph.survivors import Survivors
from keras_dynhp.graph.trace import Trace
from keras_dynhp.keras_state import graph as ks
from keras_dynhp.keras_state.variables import initialized_by
from keras_dynhp.rebuild.clone import Cloner, kernels_as_zeros, leaves, with_inner
from keras_dynhp.rebuild.moves import SHARED, moves_of
from keras_dynhp.rebuild.release import release_variable
from keras_dynhp.rebuild.removal import Removals


def check_layers(trace: Trace) -> None:
    """Make every layer anew once, as a rebuild will, while there is nothing to lose yet.

    Only a user's own layers are built for it, and models in wrappers; what they took is given
    back before this returns.

    Raises:
        ValueError: with its name, for a layer that does not come back from its configuration, or
            that holds one which another layer holds, too.
    """
    everything = Survivors(np.ones(trace.units.count, bool))
    cloner = Cloner(trace, everything, None, Removals(), {})
    state = random.getstate()  # from which new layers draw their seeds
    made: dict[int, object] = {}  # old layer -> new one
    try:
        with initialized_by(kernels_as_zeros):
            for node in leaves(ks.functional_of(trace.model)):
                new = cloner.operation(node.operation)
                for old, other in zip(with_inner(node.operation), with_inner(new)):
                    if made.setdefault(id(old), other) is not other and old.variables:
                        path = old.variables[0].path
                        raise ValueError(SHARED.format(path=path, layer=node.operation.name))
                if not ks.is_of_keras(type(node.operation)):
                    given = {id(t): ks.like(t) for t in ks.input_tensors(node)}
                    cloner.result(node, new, given)
                    list(moves_of(trace, node.operation, new, {}))
    finally:
        random.setstate(state)
        living = {id(variable) for variable in trace.model.variables}
        for operation in cloner.operations.values():
            for variable in getattr(operation, "variables", ()):
                if id(variable) not in living:  # as are those of a layer that two layers hold
                    release_variable(variable)
