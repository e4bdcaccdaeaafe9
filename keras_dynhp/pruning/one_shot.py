"""prune: one-shot hard pruning outside training."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_dynhp import criteria
from keras_dynhp.costs.target import Target
from keras_dynhp.criteria import Criterion
from keras_dynhp.graph.groups import ChannelGroups, find_groups
from keras_dynhp.keras_state.optimizer import variable_key
from keras_dynhp.pruning.gates import GateMeter
from keras_dynhp.pruning.goals import Goals
from keras_dynhp.pruning.selection import select
from keras_dynhp.rebuild.masked import smaller_copy
from keras_dynhp.rebuild.plan import plan_rebuild


def prune(
    model: keras.Model,
    target: Target,
    criterion: str | Criterion = "magnitude",
    data: tf.data.Dataset | None = None,
) -> keras.Model:
    """A smaller copy of a trained model, pruned at once; fine-tune it afterwards.

    Args:
        model: a built Sequential or Functional model; it is left alone.
        target: what the copy must satisfy.
        criterion: `"magnitude"`, `"taylor"`, `"random"`, or a `Criterion`.
        data: a `tf.data.Dataset` of `(x, y)` batches, for criteria that need gradients; the model
            must then be compiled with a loss. A few hundred samples do.

    Returns:
        A plain Keras model, not compiled.

    Raises:
        TypeError: for arguments of the wrong type.
        ValueError: if the target can't be met, or gradients are needed and can't be had.

    Example:

    >>> import keras, keras_dynhp as dynhp
    >>> model = keras.Sequential(
    ...     [keras.Input((8,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(2)]
    ... )
    >>> dynhp.prune(model, dynhp.Target(compression=4)).count_params()
    79
    """
    if not isinstance(target, Target):
        raise TypeError(f"`target` must be a keras_dynhp.Target. Received: {target!r}")
    criterion = criteria.get(criterion)
    groups = find_groups(model)
    goals = Goals(groups, target)
    goals.check(model, groups)
    gates = _gates(model, groups, data) if criterion.uses_gradients else None
    masks = select(groups, criterion.scores(groups, gates), goals.at(groups, 1.0))
    return smaller_copy(plan_rebuild(groups, groups.survivors(masks)))


def _gates(model: keras.Model, groups: ChannelGroups, data) -> dict:
    if not isinstance(data, tf.data.Dataset):
        raise ValueError(
            "This criterion reads gradients, so `data` must be a tf.data.Dataset of (x, y) "
            f"batches. Received: {type(data).__name__}"
        )
    if not model.compiled:
        raise ValueError(
            f"This criterion reads gradients of the loss, and model {model.name!r} has none: "
            "call model.compile(loss=...) first."
        )
    names = keras.optimizers.SGD()  # only tells which variable is which
    meter = GateMeter(groups, names, momentum=1.0)
    # Of frozen layers too: they take no part in training, but are pruned like the others.
    places = {id(p.variable): p.variable for group in groups for p in group.places}
    variables = [v for v in places.values() if keras.backend.is_float_dtype(v.dtype)]

    @tf.function(reduce_retracing=True)
    def step(x, y, sample_weight):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            values = [variable.value for variable in variables]
            tape.watch(values)
            # The inference form of the network: pruning is to leave its outputs as they are.
            loss = model.compute_loss(x, y, model(x, training=False), sample_weight)
        for weights, gradient in zip(values, tape.gradient(loss, values)):
            if gradient is not None:
                meter.read(variable_key(names, weights), gradient, weights, weights)

    batches = 0
    for batch in data:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        step(x, y, sample_weight)
        batches += 1
    if not batches:
        raise ValueError("`data` is empty: it gave no batch of (x, y).")
    return meter.means()
