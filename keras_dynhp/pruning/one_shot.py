"""prune: one-shot hard pruning outside training."""

from __future__ import annotations

import math
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from keras_dynhp import criteria
from keras_dynhp.costs.target import Target
from keras_dynhp.criteria import Criterion
from keras_dynhp.criteria.criterion import summed
from keras_dynhp.graph.groups import ChannelGroups, find_groups
from keras_dynhp.keras_state.strided import differentiated, sidestep_strided_kernels
from keras_dynhp.pruning.gates import gate_places
from keras_dynhp.pruning.goals import Goals
from keras_dynhp.pruning.selection import select
from keras_dynhp.rebuild.masked import smaller_copy
from keras_dynhp.rebuild.plan import plan_rebuild
from keras_dynhp.schedules import Geometric

# What a round leaves, at least, of what the round before it left.
LEFT = 0.8


def prune(
    model: keras.Model,
    target: Target,
    criterion: str | Criterion = "magnitude",
    data: tf.data.Dataset | None = None,
) -> keras.Model:
    """A smaller copy of a trained model, pruned at once; fine-tune it afterwards.

    A criterion that needs gradients is asked anew each time a fifth of the network has gone, with
    the gradients of what is left: the less there is of a layer, the more each of its neurons
    counts. Asked once, it empties the layer whose neurons cost most (the collapse of layers that
    Tanaka et al. 2020 describe, arXiv 2006.05467).

    Args:
        model: a built Sequential or Functional model; it is left alone.
        target: what the copy must satisfy; `flash` and `ram` by estimate, since nothing is
            converted and measured here: `export_tflite` tells the real figures.
        criterion: `"magnitude"`, `"taylor"`, `"random"`, or a `Criterion`.
        data: a `tf.data.Dataset` of `(x, y)` batches, for criteria that need gradients; the model
            must then be compiled with a loss. A few hundred samples do; they are read again for
            each round, of which there are 11 for a tenth of the size.

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
    masks = {group.name: np.ones(group.size, bool) for group in groups}
    if criterion.uses_gradients:
        gates = _Gates(model, groups, data)
        for fraction in _rounds(goals):
            scores = criterion.scores(groups, gates.without(masks))
            masks = select(groups, scores, goals.at(groups, fraction), masks=masks)
    else:
        masks = select(groups, criterion.scores(groups), goals.at(groups, 1.0))
    return smaller_copy(plan_rebuild(groups, groups.survivors(masks)))


def _rounds(goals: Goals) -> list[float]:
    """The fractions of the way to the goals, each leaving the same share of what was left."""
    left = min(goals.limits[name] / full for name, full in goals.full.items())
    if left >= LEFT:
        return [1.0]
    way = Geometric(start=0.0, end=1.0, ratio=left)
    rounds = math.ceil(math.log(left) / math.log(LEFT))
    return [way(done / rounds) for done in range(1, rounds + 1)]


class _Gates:
    """Means over data of the squared gate gradients of a model without some of its neurons.

    The model is left alone: it is called on other values than its variables hold.
    """

    def __init__(self, model: keras.Model, groups: ChannelGroups, data):
        if not isinstance(data, tf.data.Dataset):
            raise ValueError(
                "This criterion reads gradients, so `data` must be a tf.data.Dataset of (x, y) "
                f"batches. Received: {type(data).__name__}"
            )
        if data.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                "`data` never ends: give a part of it, such as data.take(10). Received: a "
                "tf.data.Dataset of infinite cardinality."
            )
        if not model.compiled:
            raise ValueError(
                f"This criterion reads gradients of the loss, and model {model.name!r} has none: "
                "call model.compile(loss=...) first."
            )
        self._model, self._groups, self._data = model, groups, data
        sidestep_strided_kernels(model)
        self._places = {
            group.name: [
                place
                for place in gate_places(group)
                if keras.backend.is_float_dtype(place.variable.dtype)
            ]
            for group in groups
        }
        # Of frozen layers too: they take no part in training, but are pruned like the others.
        places = [place for found in self._places.values() for place in found]
        self._variables = list({id(p.variable): p.variable for p in places}.values())

    def without(self, masks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """By the group's name, for the model of those neurons for which the masks are true."""
        values = {id(v): keras.ops.convert_to_numpy(v).copy() for v in self._variables}
        for name, places in self._places.items():
            for place in places:
                gone = (place.index >= 0) & ~masks[name][place.index]
                np.moveaxis(values[id(place.variable)], place.axis, 0)[gone] = 0.0
        tensors = [tf.constant(value) for value in values.values()]
        squares = {group.name: np.zeros(group.size) for group in self._groups}
        batches = 0
        for batch in self._data:
            gradients = self._gradients(tensors, *keras.utils.unpack_x_y_sample_weight(batch))
            products = {
                key: (value * gradient.numpy()).astype(np.float64)
                for (key, value), gradient in zip(values.items(), gradients)
            }
            for name, places in self._places.items():
                parts = [summed(p, products[id(p.variable)], len(squares[name])) for p in places]
                squares[name] += np.square(sum(parts))
            batches += 1
        if not batches:
            raise ValueError("`data` is empty: it gave no batch of (x, y).")
        return {name: total / batches for name, total in squares.items()}

    @tf.function(reduce_retracing=True)
    def _gradients(self, values, x, y, sample_weight):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            with keras.StatelessScope(list(zip(self._variables, values))), differentiated():
                # The inference form: pruning is to leave the network's outputs as they are.
                outputs = self._model(x, training=False)
            loss = self._model.compute_loss(x, y, outputs, sample_weight)
        gradients = tape.gradient(loss, values, unconnected_gradients="zero")
        return [tf.convert_to_tensor(gradient) for gradient in gradients]
