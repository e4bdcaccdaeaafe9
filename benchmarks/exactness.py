"""Is a rebuilt model the masked model? Random weights, random masks, and the largest difference."""

from __future__ import annotations

import dataclasses
import math

import keras
import numpy as np

import keras_dynhp as dynhp
from keras_dynhp.graph.records import IN

SCALES = ("gamma", "scale", "alpha", "moving_variance", "variance")


def randomize(model: keras.Model, seed: int = 0, inputs=None, gain: float = 1.5) -> None:
    """Give every variable random values under which signals neither vanish nor explode.

    Fresh weights would hide errors: zero biases, unit scales and unit variances make many wrong
    rebuilds right. With `inputs`, batch statistics are measured on them, as training would.
    `gain` is the variance of a kernel's sum over its inputs; where half of them will be masked,
    twice the default keeps signals as large.
    """
    random = np.random.default_rng(seed)
    for variable in model.weights:
        shape, name = tuple(variable.shape), variable.path.rsplit("/", 1)[-1]
        if not keras.backend.is_float_dtype(variable.dtype) or name == "mask":
            continue
        if name in SCALES:
            value = random.uniform(0.5, 1.5, shape)
        elif len(shape) < 2:
            value = random.normal(0, 0.3, shape)
        else:
            # A depthwise kernel has one input per channel, so count positions instead.
            fan_in = shape[0] if "depthwise" in name else math.prod(shape[:-1])
            value = random.normal(0, math.sqrt(gain / fan_in), shape)
        variable.assign(value)
    finalize(model)
    if inputs is not None:
        calibrate(model, inputs)


def finalize(model: keras.Model) -> None:
    """Let every Normalization take notice of statistics that were assigned to its variables."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization) and layer.built:
            layer.finalize_state()


def calibrate(model: keras.Model, inputs) -> None:
    """Set the moving statistics of every BatchNormalization to those of this batch."""
    norms = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    if norms:
        model(inputs, training=True)
    for layer, momentum in zip(norms, momenta):
        layer.momentum = momentum


def amplification(model: keras.Model, inputs: np.ndarray) -> float:
    """How many roundings large it is in the outputs when the input is moved by a few."""
    rounding = float(np.finfo(keras.config.floatx()).eps)
    noise = np.random.default_rng(0).normal(size=inputs.shape)
    moved = (inputs * (1 + 8 * rounding * noise)).astype(keras.config.floatx())
    return difference(outputs_of(model, inputs), outputs_of(model, moved)) / rounding


def damp(model: keras.Model, scale: float = 0.1) -> None:
    """Scale what residual branches add: the normalization in front of every sum."""
    for operation in model.operations:
        if isinstance(operation, keras.layers.Add):
            for tensor in operation.input:
                layer = tensor._keras_history.operation
                if isinstance(layer, keras.layers.Dropout):
                    layer = layer.input._keras_history.operation
                if isinstance(layer, keras.layers.BatchNormalization) and layer.scale:
                    layer.gamma.assign(scale * layer.gamma)


def random_inputs(model: keras.Model, batch: int = 2, seed: int = 1, unknown: int = 8):
    """Random data of the model's input shapes; whole numbers for inputs of whole numbers."""
    random = np.random.default_rng(seed)
    data = []
    for tensor in model.inputs:
        shape = (batch, *(unknown if dim is None else dim for dim in tensor.shape[1:]))
        if keras.backend.is_float_dtype(tensor.dtype):
            data.append(random.normal(size=shape).astype("float32"))
        else:
            data.append(random.integers(0, 4, shape).astype(tensor.dtype))
    return data[0] if len(data) == 1 else data


def random_masks(masked: keras.Model, seed: int = 2, share: float = 0.5) -> int:
    """Mask a random share of every group, one neuron at least staying; returns how many groups."""
    random = np.random.default_rng(seed)
    masks = [layer for layer in masked._flatten_layers() if isinstance(layer, dynhp.NeuronMask)]
    for layer in {id(layer): layer for layer in masks}.values():
        keep = random.random(layer.neurons) >= share
        keep[random.integers(layer.neurons)] = True
        if keep.all() and share > 0:
            keep[random.integers(layer.neurons)] = layer.neurons == 1
        layer.mask.assign(keep.astype("float32"))
    return len(masks)


def outputs_of(model: keras.Model, inputs) -> list[np.ndarray]:
    """Every output in inference mode, flat, as float64."""
    results = keras.tree.flatten(model(inputs, training=False))
    return [keras.ops.convert_to_numpy(x).astype("float64") for x in results]


def spread(outputs: list[np.ndarray]) -> float:
    """How much outputs depend on the data: deviation over the batch, relative to magnitude."""
    return min(float(x.std(axis=0).max() / max(np.abs(x).max(), 1e-30)) for x in outputs)


def difference(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    """The largest difference, relative to the largest magnitude of its output; NaN is infinite."""
    worst = 0.0
    for a, b in zip(one, other, strict=True):
        if a.shape != b.shape:
            raise AssertionError(f"Outputs have shapes {a.shape} and {b.shape}.")
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            return math.inf
        if a.size:
            worst = max(worst, float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-6)))
    return worst


@dataclasses.dataclass
class Check:
    """What `check` found."""

    groups: dynhp.graph.groups.ChannelGroups
    masked: keras.Model
    small: keras.Model
    copy_error: float  # masked copy against the model, all masks 1
    error: float  # rebuilt against masked
    inputs: object  # what the models were compared on
    outputs: tuple[list[np.ndarray], list[np.ndarray]]  # of the masked and the rebuilt model
    spread: float  # how much the masked model's outputs depend on the data


def check(
    model: keras.Model,
    prune_inputs: bool = False,
    share: float = 0.5,
    seed: int = 0,
    inputs=None,
) -> Check:
    """Randomize, mask at random, rebuild, and compare the three models on random data."""
    inputs = random_inputs(model, seed=seed + 1) if inputs is None else inputs
    randomize(model, seed, inputs)
    before = outputs_of(model, inputs)
    groups = dynhp.find_groups(model, prune_inputs=prune_inputs)
    masked = dynhp.add_masks(model, prune_inputs=prune_inputs)
    copy_error = difference(before, outputs_of(masked, inputs))
    random_masks(masked, seed + 2, share)
    small = dynhp.rebuild(masked)
    outputs = outputs_of(masked, inputs), outputs_of(small, inputs)
    error, varies = difference(*outputs), spread(outputs[0])
    return Check(groups, masked, small, copy_error, error, inputs, outputs, varies)


def masked_in_place(model: keras.Model, groups, keep: dict[str, np.ndarray]) -> None:
    """Mask neurons inside a plain model: zero the weights that read them."""
    for name, mask in keep.items():
        for place in groups[name].places:
            if place.role == IN:
                shape = [-1 if a == place.axis else 1 for a in range(len(place.variable.shape))]
                open_end = np.append(np.asarray(mask, "float32"), 1.0)
                place.variable.assign(place.variable * open_end[place.index].reshape(shape))
