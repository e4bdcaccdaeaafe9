"""Flash and arena bytes of the int8 network as functions of the widths of its groups."""

from __future__ import annotations

import numpy as np

from keras_dynhp.costs import arena, flash
from keras_dynhp.costs.lowering import lower
from keras_dynhp.graph import labels as lb
from keras_dynhp.graph.groups import ChannelGroups
from keras_dynhp.keras_state import graph as ks
from keras_dynhp.pruning.resources import Resource, weighted

# Steps whose activations come this close to the peak are attacked with it: once the highest has
# fallen, one of them is the peak.
NEAR_PEAK = 0.9


def flash_bytes(groups: ChannelGroups) -> Resource:
    """Bytes of the int8 file; exact for the network as it is, linear in what each variable holds.

    A weight is a byte. A bias is four, and the channels of a convolution carry scales. Batch
    normalization is folded into the layer before it.
    """
    weights = {}
    variables = groups.trace.model.weights
    convolutions = {v.path.rpartition("/")[0] for v in variables if len(v.shape) > 2}
    for variable in variables:
        layer, _, name = variable.path.rpartition("/")
        if len(variable.shape) > 1:
            weights[id(variable)] = float(flash.BYTES_PER_WEIGHT["int8"])
        elif name == "bias":
            scales = flash.BYTES_PER_CHANNEL_SCALE if layer in convolutions else 0
            weights[id(variable)] = float(flash.BYTES_PER_BIAS["int8"] + scales)
    resource = weighted("flash", groups, weights)
    sizes = np.array([group.size for group in groups], float)
    resource.constant += flash.estimate_flash(groups.trace.model) - resource.value(sizes)
    return resource


class Ram:
    """Bytes of the tensor arena: what is alive at the worst step, and what is always there."""

    name = "ram"

    def __init__(self, groups: ChannelGroups):
        device = lower(groups.trace.model)
        buffers = arena.plan(device, value_bytes=1)
        channels = _output_channels(groups)
        sizes = np.array([group.size for group in groups], float)
        steps = range(1 + max(buffer.last for buffer in buffers))
        self._fixed = np.zeros(len(steps))
        self._slope = np.zeros((len(steps), len(sizes)))
        for buffer in buffers:
            fixed, per_neuron = channels.get(buffer.source, (1.0, {}))
            total = fixed + sum(count * sizes[g] for g, count in per_neuron.items())
            alive = slice(buffer.first, buffer.last + 1)
            self._fixed[alive] += buffer.bytes * fixed / total
            for group, count in per_neuron.items():
                self._slope[alive, group] += buffer.bytes * count / total
        # Bookkeeping, kernels' own data and the planner's gaps: as they are now.
        self._kept = arena.arena_of(device) - self._steps(sizes).max()

    def _steps(self, widths: np.ndarray) -> np.ndarray:
        return self._fixed + self._slope @ np.asarray(widths, float)

    def value(self, widths: np.ndarray) -> float:
        """The arena at these widths."""
        return float(self._kept + self._steps(widths).max())

    def per_neuron(self, widths: np.ndarray) -> np.ndarray:
        """What one neuron of each group adds to the steps at or near the peak."""
        steps = self._steps(widths)
        return self._slope[steps >= NEAR_PEAK * steps.max()].mean(axis=0)


def _output_channels(groups: ChannelGroups) -> dict[str, tuple[float, dict[int, float]]]:
    """For each operation: channels of its output that stay, and positions per neuron by group."""
    trace = groups.trace
    found: dict[str, tuple[float, dict[int, float]]] = {}

    def walk(functional) -> None:
        for node in ks.nodes_in_order(functional):
            operation = node.operation
            inner = ks.functional_of(operation) if hasattr(operation, "layers") else None
            if inner is not None:
                walk(inner)
            path = trace.paths.get(id(operation))
            tensors = ks.output_tensors(node)
            if path is None or not tensors:
                continue
            labels = trace.tensors[id(tensors[0])]
            axes = lb.varying(labels)
            vector = labels.ravel() if len(axes) == 1 else np.zeros(0, np.int64)
            neurons = groups.neurons_of(vector)
            per_neuron = {
                number: (index >= 0).sum() / groups[number].size
                for number, index in neurons.items()
            }
            inside = sum(int((index >= 0).sum()) for index in neurons.values())
            found[path] = (float(len(vector) - inside) if inside else 1.0, per_neuron)

    walk(ks.functional_of(trace.model))
    return found
