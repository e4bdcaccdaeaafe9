"""to_functional: a model whose blocks and own calls are written out as one graph."""

from __future__ import annotations

import warnings

import keras
import numpy as np

from keras_dynhp.graph.groups import check_backend
from keras_dynhp.graph.opening import NotOpened, Opener
from keras_dynhp.graph.survivors import Survivors
from keras_dynhp.graph.trace import trace_model
from keras_dynhp.keras_state import graph as ks
from keras_dynhp.rebuild.clone import clone_model, settle, transfers


def to_functional(model: keras.Model, inputs=None) -> keras.Model:
    """A copy of a model in which what blocks and layers of one's own do is a graph.

    A block written as a `keras.layers.Layer` with layers inside, or a subclassed `keras.Model`,
    hides what it computes: Keras's graph has one node for it, or none at all, and none of its
    neurons could go. Here its `call()` is traced, and stands as a Functional model of its name in
    its place; so does what a `Lambda`, or a layer of one's own without weights, does. The
    copy computes what the model computes, in training too, has its own variables with the same
    values, needs none of the opened classes to be loaded, and is not compiled. The given model is
    left alone.

    A graph has one way through it. So a layer stays as it is, with a warning that says why, if
    its `call()` branches on `training`, computes with weights that are no inner layer's own or
    constants made from weights or random numbers, adds losses, or is given Keras's masks. As
    before, none of the neurons in such a block is pruned, nor those that it reads.

    Args:
        model: a built Sequential or Functional model, or a subclassed one.
        inputs: for a subclassed model: what it is called on, a `keras.Input` or a nested structure
            of them.

    Returns:
        A Functional model.

    Raises:
        TypeError: if `model` is not a Keras model.
        ValueError: for a subclassed model without `inputs`, or one whose `call()` can't be
            written as a graph; if another backend is in use.

    Example:

    >>> import keras, keras_dynhp as dynhp
    >>> class Block(keras.layers.Layer):
    ...     def __init__(self, units, hidden):
    ...         super().__init__()
    ...         self.up = keras.layers.Dense(hidden, activation="relu")
    ...         self.down = keras.layers.Dense(units)
    ...
    ...     def call(self, x):
    ...         return x + self.down(self.up(x))
    >>> model = keras.Sequential([keras.Input((8,)), Block(8, 32), keras.layers.Dense(2)])
    >>> len(dynhp.find_groups(model))
    0
    >>> [group.size for group in dynhp.find_groups(dynhp.to_functional(model))]
    [32]
    """
    check_backend()
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {type(model).__name__}")
    opener = Opener()
    with ks.without_new_calls(lambda: ks.with_inner(model)):
        shared = _opened(opener, model, inputs)
        if opener.closed:
            reasons = "".join(f"\n  {path}: {reason}" for path, reason in opener.closed.items())
            warnings.warn(f"Layers that stay as they are, unpruned inside:{reasons}", stacklevel=2)
        if opener.untold:
            warnings.warn(
                f"Keras does not tell {model.name!r} in fit() that it is training, since its "
                "call() has no argument `training`: dropout and the like did nothing. In the "
                "copy they do.",
                stacklevel=2,
            )
        trace = trace_model(shared)
        clone = clone_model(trace, Survivors(np.ones(trace.units.count, bool)))
    for move in transfers(trace, clone, {}):
        move.new.assign(move.old)
    settle(trace, clone)
    if not model.trainable:
        clone.model.trainable = False
    return clone.model


def _opened(opener: Opener, model: keras.Model, inputs) -> keras.Model:
    if inputs is None and ks.functional_of(model) is None:
        raise ValueError(
            f"Model {model.name!r} is a subclassed model ({type(model).__name__}) or a Sequential "
            "one that is not built, so what it is called on is unknown. Say it: "
            "to_functional(model, keras.Input(shape))."
        )
    try:
        return opener.opened(model, inputs)
    except NotOpened as reason:
        raise ValueError(
            f"Model {model.name!r} ({type(model).__name__}) can't be written as a graph: {reason}."
        ) from reason
