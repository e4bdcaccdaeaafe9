"""What a trace notes down: small records, filled in by rules and read when a model is rebuilt."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np

# What an axis of a variable does with the neurons that lie along it: it reads them, makes them,
# or holds one value for each. INSIDE reads, too, but neurons that never leave the layer, or that
# it reads again (recurrent units, attention heads): no mask in front of the layer could reach
# them. It is a word for rules; what is recorded is IN.
IN, OUT, ALONG, INSIDE = "in", "out", "along", "inside"

# Why nothing can go from a layer for which `keras_state.graph.is_adapted` is true.
ADAPTED = "quantized or LoRA layers keep their shape"


@dataclass
class VariableLabels:
    """Which unit each index of each axis of a variable belongs to, and what the axis does.

    `roles` per axis: "in" (reads the unit), "out" (makes it), "along" (one value per channel).
    """

    variable: keras.Variable
    layer: str
    vectors: list[np.ndarray | None]
    roles: list[str | None]


@dataclass
class Producer:
    """A call that made new units."""

    layer: str
    kind: str


@dataclass
class Gather:
    """Where input features are selected: a tensor that gets a `take` behind it on rebuild."""

    axis: int
    vector: np.ndarray


@dataclass
class InsideRead:
    """An axis of a variable by which a layer reads units inside itself."""

    variable: keras.Variable
    axis: int
    vector: np.ndarray


@dataclass
class Barrier:
    """A call that can't be followed: why, and the labels of what it was given and returned."""

    why: str
    inputs: list[np.ndarray]
    outputs: list[np.ndarray]
    keeps_shape: bool
