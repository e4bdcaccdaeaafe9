"""Dynamic Hard Pruning: Keras 3 networks that become small while they train."""

from keras_dynhp.graph.groups import find_groups
from keras_dynhp.graph.registry import register_rule
from keras_dynhp.layers.neuron_mask import NeuronMask
from keras_dynhp.rebuild.masked import add_masks, rebuild

__version__ = "0.1.0"

__all__ = [
    "NeuronMask",
    "add_masks",
    "find_groups",
    "rebuild",
    "register_rule",
]
