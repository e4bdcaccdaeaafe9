"""to_functional: a model whose blocks and own calls are written out as one graph."""

from __future__ import annotations

import warnings

import keras
import numpy as np

from keras_dynhp.graph.groups import check_backend
from keras_dynhp.graph.opening import Opener
from keras_dynhp.graph.same_calls import NotOpened
from keras_dynhp.graph.survivors import Survivors
from keras_dynhp.graph.trace import trace_model
from keras_dynhp.keras_state import graph as ks
from keras_dynhp.rebuild.clone import clone_model
from keras_dynhp.rebuild.moves import settle, transfers


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
    constants made from weights or random numbers, changes weights, adds losses, or is given
    Keras's masks, and if it is called in two ways. As before, none of the neurons in such a block
    is pruned, nor those that it reads. At the end the copy is compared with the model.

    Args:
        model: a built Sequential or Functional model, or a subclassed one.
        inputs: for a subclassed model: what it is called on, a `keras.Input` or a nested structure
            of them.

    Returns:
        A Functional model.

    Raises:
        TypeError: if `model` is not a Keras model, or `inputs` are not symbolic.
        ValueError: for a subclassed model without `inputs`, or one whose `call()` can't be
            written as a graph; if a layer that stays can't be made anew, or would compute
            something else; if another backend is in use.

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
        twice = _in_two_graphs(shared)
        if twice:
            warnings.warn(
                f"The layer {twice[0]!r} is called in two of the models that the copy is made of. "
                "Keras saves that and can't load it: use save_weights and load_weights.",
                stacklevel=2,
            )
        own = [name for name in _OF_TRAINING if getattr(type(model), name) is not _usual(name)]
        if own:
            warnings.warn(
                f"The copy has the usual {own[0]}(), and {type(model).__name__} one of its own: "
                "give the copy to a class with that, or train it as that does.",
                stacklevel=2,
            )
        trace = trace_model(shared)
        clone = clone_model(trace, Survivors(np.ones(trace.units.count, bool)))
    for move in transfers(trace, clone, {}):
        move.new.assign(move.old)
    settle(trace, clone)
    if clone.model.dtype_policy != model.dtype_policy:
        clone.model.dtype_policy = model.dtype_policy
    if not model.trainable:
        clone.model.trainable = False
    _check_same(model, clone.model)
    return clone.model


def _in_two_graphs(model: keras.Model) -> list[str]:
    """Names of layers that stand in more than one of a model and the models inside it."""
    seen: dict[int, int] = {}
    names = []
    for number, graph in enumerate([model, *ks.models_inside(model)]):
        for node in ks.nodes_in_order(ks.functional_of(graph)):
            one = node.operation
            has_weights = isinstance(one, keras.layers.Layer) and one.variables
            if has_weights and seen.setdefault(id(one), number) != number:
                names.append(one.name)
    return names


# What a class may do in another way in `fit`, of which a graph says nothing.
_OF_TRAINING = ("train_step", "test_step", "predict_step", "compute_loss", "compute_metrics")


def _usual(name: str):
    return getattr(keras.Model, name)


def _check_same(model: keras.Model, copy: keras.Model) -> None:
    """Refuse a copy that computes something else: of layers whose configurations say too little.

    Raises:
        ValueError: by how much it is off.
    """
    draws = np.random.default_rng(0)
    made = [_drawn(tensor, draws) for tensor in copy.inputs]
    inputs_like, _ = ks.structure(copy)
    try:
        x = keras.tree.pack_sequence_as(inputs_like, made)
        wanted, again = _outputs(model, x), _outputs(model, x)
    except Exception:  # numbers like these are nothing for it, words for example
        return
    for one, same, other in zip(wanted, again, _outputs(copy, x)):
        off = np.abs(one - other).max(initial=0.0)
        allowed = _ROUNDING[str(one.dtype)] * (1 + np.abs(one).max(initial=0.0))
        if off > allowed and np.abs(one - same).max(initial=0.0) <= allowed:  # not by chance
            raise ValueError(
                f"A copy of {model.name!r} computes something else than the model: up to {off:.3g} "
                "off. It has a layer that get_config() does not say everything about, such as "
                "what was changed after it was made. Let get_config() and from_config() of your "
                "own layers make the same layer."
            )


_ROUNDING = {"float64": 1e-6, "float32": 1e-4}  # and what becomes of half precision


def _drawn(tensor: keras.KerasTensor, draws) -> np.ndarray:
    """A few samples; numbers that may count something are 0 or 1."""
    shape = [2, *(size or 16 for size in tensor.shape[1:])]
    if keras.backend.is_float_dtype(tensor.dtype):
        return draws.normal(size=shape).astype("float32")
    return draws.integers(0, 2, shape).astype("bool" if tensor.dtype == "bool" else "int32")


def _outputs(model: keras.Model, x) -> list[np.ndarray]:
    """What a model answers, which leaves its state as it is."""
    trained = [v.value for v in model.trainable_variables]
    others = [v.value for v in model.non_trainable_variables]
    made, _ = model.stateless_call(trained, others, x, training=False)
    found = [keras.ops.convert_to_numpy(one) for one in keras.tree.flatten(made)]
    return [one if one.dtype == "float64" else one.astype("float32") for one in found]


def _opened(opener: Opener, model: keras.Model, inputs) -> keras.Model:
    if inputs is None and ks.functional_of(model) is None:
        raise ValueError(
            f"Model {model.name!r} is a subclassed model ({type(model).__name__}) or a Sequential "
            "one that is not built, so what it is called on is unknown. Say it: "
            "to_functional(model, keras.Input(shape))."
        )
    given = keras.tree.flatten(inputs)
    if inputs is not None and not (given and all(isinstance(x, keras.KerasTensor) for x in given)):
        raise TypeError(
            "`inputs` must be what the model is called on, a keras.Input such as "
            f"keras.Input((28, 28, 1)) or a nested structure of them. Received: {inputs!r}"
        )
    try:
        return opener.opened(model, inputs)
    except NotOpened as reason:
        raise ValueError(
            f"Model {model.name!r} ({type(model).__name__}) can't be written as a graph: {reason}."
        ) from reason
