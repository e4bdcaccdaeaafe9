"""NeuronMask: a layer that lets some neurons through and sets the others to zero."""

from __future__ import annotations

import keras
import numpy as np

from keras_dynhp.graph import labels as lb
from keras_dynhp.graph.registry import rule_for, zero_kept_by
from keras_dynhp.keras_state import graph as ks


@keras.saving.register_keras_serializable(package="keras_dynhp")
class Index:
    """Which neuron lies at every position of an axis, as one argument of a call.

    Keras looks at every number of a list that a layer is called with: where many groups lie side
    by side (DenseNet), that took minutes.
    """

    def __init__(self, neurons):
        self.neurons = np.asarray(neurons, np.int64)

    def get_config(self):
        """The numbers."""
        return {"neurons": self.neurons.tolist()}

    @classmethod
    def from_config(cls, config):
        """Made again."""
        return cls(**config)


def _places(index, count: int) -> np.ndarray:
    """The neuron at every position; all `count` of them in their order if `index` is None."""
    if index is None:
        return np.arange(count)
    return index.neurons if isinstance(index, Index) else np.asarray(index)


@keras.saving.register_keras_serializable(package="keras_dynhp")
class NeuronMask(keras.layers.Layer):
    """Multiplies every neuron of a channel group by its entry of a mask.

    Its only weight, `mask`, has shape `(neurons,)` and is not trainable: 1.0 keeps a neuron, 0.0
    masks it (soft pruning). `add_masks` puts one such layer in front of every place that reads a
    group; `rebuild` makes the masked neurons go for good.

    Args:
        neurons: the number of neurons in the group.
        weight_of: another mask, whose weight this one shares; None for a weight of its own.

    Call arguments:
        inputs: a tensor that carries the group's neurons along one axis.
        axis: the axis along which they lie.
        index: for every position along that axis, the neuron that lies there, -1 for none of this
            group; a list, or an `Index`. None: position `i` holds neuron `i`.

    Raises:
        ValueError: if `neurons` is not a positive integer; when called on a tensor along whose
            axis there lie more or fewer neurons.

    Example:

    >>> import numpy as np
    >>> from keras_dynhp import NeuronMask
    >>> layer = NeuronMask(3)
    >>> layer.mask.assign([1.0, 0.0, 1.0]) is None or True
    True
    >>> print(np.asarray(layer(np.ones((1, 3), "float32"))))
    [[1. 0. 1.]]
    """

    def __init__(self, neurons: int, weight_of: NeuronMask | None = None, **kwargs):
        super().__init__(**kwargs)
        if isinstance(neurons, bool) or not isinstance(neurons, int) or neurons < 1:
            raise ValueError(f"`neurons` must be a positive integer. Received: neurons={neurons!r}")
        self.neurons = neurons
        self.supports_masking = True
        self._shared = weight_of is not None
        if weight_of is None:
            self.mask = self.add_weight(
                shape=(neurons,), initializer="ones", trainable=False, name="mask"
            )
        else:
            self.mask = weight_of.mask
            weight_of._shared = True
        self.built = True

    def call(self, inputs, axis=-1, index=None):
        """Set the masked neurons to zero."""
        self._check(inputs.shape, axis, index)
        shape = [1] * len(inputs.shape)
        shape[axis] = -1
        mask = keras.ops.reshape(self.values_at(index), shape)
        if keras.backend.standardize_dtype(inputs.dtype) == "bool":
            return keras.ops.logical_and(inputs, keras.ops.cast(mask, "bool"))
        return inputs * keras.ops.cast(mask, inputs.dtype)

    def _check(self, shape, axis, index) -> None:
        places = _places(index, self.neurons)
        fits = -len(shape) <= axis < len(shape)
        if fits and shape[axis] is not None:
            fits = shape[axis] == len(places) and places.max(initial=-1) < self.neurons
        if not fits:
            raise ValueError(
                f"NeuronMask {self.name!r} holds {self.neurons} neurons and was called on a tensor "
                f"of shape {tuple(shape)} along axis {axis}, with "
                f"{'no `index`' if index is None else f'an `index` of {len(places)}'}. Along that "
                "axis there must lie the mask's neurons, or those that `index` names."
            )

    def values_at(self, index=None):
        """The mask's entries at the neurons in `index`, 1.0 where it holds -1."""
        if index is None:
            return keras.ops.convert_to_tensor(self.mask)
        open_end = keras.ops.concatenate([self.mask, keras.ops.ones((1,), self.mask.dtype)])
        places = _places(index, self.neurons)
        return keras.ops.take(open_end, np.where(places < 0, self.neurons, places))

    def compute_output_spec(self, inputs, axis=-1, index=None):
        """What comes out looks like what came in."""
        self._check(inputs.shape, axis, index)
        return keras.KerasTensor(inputs.shape, inputs.dtype)

    def get_config(self):
        """`neurons`, beside the layer's own, and what tells its weight from others in its file."""
        return {**super().get_config(), "neurons": self.neurons, "shared": id(self.mask)}

    @classmethod
    def from_config(cls, config):
        """Made again; in a file, all places where it stood share one weight.

        Not one layer: Keras can't load a layer that models inside one another share.
        """
        config = dict(config)
        key = config.pop("shared", None)
        known = {} if key is None else ks.once_per_file((cls.__name__, key), dict)
        layer = cls(**config, weight_of=known.get("first"))
        known.setdefault("first", layer)
        return layer

    def load_own_variables(self, store):
        """A weight that several layers share lies in the file once, under one of them."""
        if not (self._shared and len(store.keys()) == 0):
            super().load_own_variables(store)


zero_kept_by(NeuronMask)


@rule_for(NeuronMask)
def neuron_mask(call):
    """Passes channels on and notes which of them are zero."""
    layer = call.layer
    axis = call.kwargs.get("axis", -1)
    index = call.kwargs.get("index")
    size = call.input_shapes[0][axis]
    labels = call.pass_on(0, axis)
    vector = lb.axis_vector(labels, axis, size)
    index = _places(index, size)
    open_end = np.append(np.asarray(layer.mask) == 0, False)
    call.mask(layer, vector, open_end[index])
    return labels
