"""Dynamic Hard Pruning: Keras 3 networks that become small while they train."""

from keras_dynhp.batching.rules import BatchRule
from keras_dynhp.callbacks.dynhp import DynHP
from keras_dynhp.callbacks.prune_and_rebuild import PruneAndRebuild
from keras_dynhp.costs.macs import count_macs
from keras_dynhp.costs.target import Target
from keras_dynhp.criteria import Criterion
from keras_dynhp.errors import BudgetError, TargetError
from keras_dynhp.export.report import DeviceReport
from keras_dynhp.export.tflite import export_tflite
from keras_dynhp.graph.groups import find_groups
from keras_dynhp.graph.registry import register_rule
from keras_dynhp.layers.neuron_mask import NeuronMask
from keras_dynhp.memory.estimate import MemoryEstimate, estimate_memory
from keras_dynhp.pruning.one_shot import prune
from keras_dynhp.rebuild.functional import to_functional
from keras_dynhp.rebuild.masked import add_masks, rebuild
from keras_dynhp.schedules import Schedule

__version__ = "0.1.0"

__all__ = [
    "BatchRule",
    "BudgetError",
    "Criterion",
    "DeviceReport",
    "DynHP",
    "MemoryEstimate",
    "NeuronMask",
    "PruneAndRebuild",
    "Schedule",
    "Target",
    "TargetError",
    "add_masks",
    "count_macs",
    "estimate_memory",
    "export_tflite",
    "find_groups",
    "prune",
    "rebuild",
    "register_rule",
    "to_functional",
]
