"""MaskedReads: masks on neurons that a layer reads inside itself."""

from __future__ import annotations

import keras
import numpy as np

from keras_dynhp.graph.registry import rule_for
from keras_dynhp.layers.neuron_mask import NeuronMask


@keras.saving.register_keras_serializable(package="keras_dynhp")
class MaskedReads(keras.layers.Layer):
    """Runs a layer with some of its own neurons masked where the layer itself reads them.

    Recurrent units and attention heads are read inside their layer, where no `NeuronMask` in
    front of it reaches. `add_masks` puts this layer around theirs: it multiplies, along the axes
    in `reads`, the variables that read such neurons by the neurons' masks. `rebuild` takes it off.

    Args:
        layer: the layer to run; it must be built.
        reads: list of `(variable, axis, mask, index)`: the number of the variable in
            `layer.variables`, the axis along which the neurons lie, their `NeuronMask`, and for
            every position along the axis the neuron that lies there, -1 for none (None: position
            `i` holds neuron `i`).

    Example:

    >>> import keras, keras_dynhp
    >>> from keras_dynhp.layers.masked_reads import MaskedReads
    >>> inputs = keras.Input((5, 2))
    >>> lstm = keras.layers.LSTM(3)
    >>> lstm.build((None, 5, 2))
    >>> outputs = MaskedReads(lstm, [(1, 0, keras_dynhp.NeuronMask(3), None)])(inputs)
    >>> outputs.shape
    (None, 3)
    """

    def __init__(self, layer: keras.layers.Layer, reads: list, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer
        masks = {id(mask): mask for _, _, mask, _ in reads}
        self.masks = list(masks.values())
        numbers = {key: number for number, key in enumerate(masks)}
        self.reads = [[v, axis, numbers[id(mask)], index] for v, axis, mask, index in reads]
        self.supports_masking = True
        self.built = True  # nothing of its own

    def call(self, *args, **kwargs):
        """Call the layer while its reading variables are masked."""
        variables = self.layer.variables
        values = {}
        for number, axis, mask, index in self.reads:
            variable = variables[number]
            value = values.get(number, keras.ops.convert_to_tensor(variable))
            shape = [-1 if a == axis else 1 for a in range(len(variable.shape))]
            along = keras.ops.reshape(self.masks[mask].values_at(index), shape)
            values[number] = value * keras.ops.cast(along, value.dtype)
        with keras.StatelessScope([(variables[n], value) for n, value in values.items()]) as scope:
            outputs = self.layer(*args, **kwargs)
        for number, variable in enumerate(variables):
            update = scope.get_current_value(variable)
            if update is not None and number not in values:
                variable.assign(update)  # states and seeds that the layer moved on
        return outputs

    def compute_mask(self, inputs, previous_mask=None):
        """The layer's own."""
        return self.layer.compute_mask(inputs, previous_mask)

    def get_config(self):
        """The layer, its masks, and what they mask."""
        config = super().get_config()
        config["layer"] = keras.saving.serialize_keras_object(self.layer)
        config["masks"] = [keras.saving.serialize_keras_object(mask) for mask in self.masks]
        config["reads"] = self.reads
        return config

    @classmethod
    def from_config(cls, config):
        """Made again; masks stay shared where the whole model is loaded from its file."""
        config = dict(config)
        layer = keras.saving.deserialize_keras_object(config.pop("layer"))
        masks = [keras.saving.deserialize_keras_object(mask) for mask in config.pop("masks")]
        reads = [(v, axis, masks[mask], index) for v, axis, mask, index in config.pop("reads")]
        return cls(layer, reads, **config)


@rule_for(MaskedReads)
def masked_reads(call):
    """The layer inside, with a note of which of its reads are zero."""
    layer = call.layer
    variables = layer.layer.variables
    dead = {}
    for number, axis, mask, index in layer.reads:
        masked: NeuronMask = layer.masks[mask]
        size = variables[number].shape[axis]
        index = np.arange(size) if index is None else np.asarray(index)
        zero = np.append(np.asarray(masked.mask) == 0, False)[index]
        key = (id(variables[number]), axis)
        dead[key] = dead.get(key, np.zeros(size, bool)) | zero
        call.trace.masks.append((masked, call.path, np.zeros(0, np.int64)))
    return call.inside(layer.layer, dead=dead).run()
