"""Pruning criteria."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np

from keras_dynhp.graph.groups import ChannelGroup, ChannelGroups


@keras.saving.register_keras_serializable(package="keras_dynhp")
class Criterion:
    """Gives every neuron of every prunable group a score: what the network loses without it.

    Scores are compared across groups, so they must be on one scale. Subclass, override `score`,
    and set `uses_gradients = True` to be given the gates' gradients.

    Example:

    >>> import keras, numpy as np, keras_dynhp as dynhp
    >>> class First(dynhp.Criterion):
    ...     def score(self, group, gates):
    ...         return -np.arange(group.size, dtype=float)
    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)]
    ... )
    >>> small = dynhp.prune(model, dynhp.Target(params=30), criterion=First())
    >>> small.layers[0].units
    4
    """

    uses_gradients = False

    def score(self, group: ChannelGroup, gates: np.ndarray | None) -> np.ndarray:
        """The scores of one group.

        Args:
            group: the group; `group.places` are the axes of variables that hold its neurons.
            gates: for a criterion that uses gradients, the running mean, per neuron, of the
                squared derivative of the loss by a gate on the neuron (shape `(group.size,)`).

        Returns:
            An array of shape `(group.size,)`, higher for neurons worth more.
        """
        raise NotImplementedError("Override `score` in a subclass of Criterion.")

    def scores(
        self, groups: ChannelGroups, gates: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """The scores of all groups, checked.

        Raises:
            ValueError: if a score is not finite, or a group's scores have another shape.
        """
        result = {}
        for group in groups:
            given = None if gates is None else gates[group.name]
            scores = np.asarray(self.score(group, given), np.float64)
            if scores.shape != (group.size,):
                raise ValueError(
                    f"{type(self).__name__}.score() must return shape ({group.size},) for group "
                    f"{group.name!r}. Received shape {scores.shape}."
                )
            if not np.isfinite(scores).all():
                bad = int((~np.isfinite(scores)).sum())
                raise ValueError(
                    f"{bad} of the {group.size} scores of group {group.name!r} are not finite. "
                    "Weights or gradients have become NaN or infinite: lower the learning rate, "
                    "or clip gradients with compile(optimizer=Adam(clipnorm=1.0))."
                )
            result[group.name] = scores
        return result

    def get_state(self) -> dict:
        """What the criterion remembers from one call to the next, as plain values and arrays."""
        return {}

    def set_state(self, state: dict) -> None:
        """Remember what `get_state` returned."""

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return {}

    @classmethod
    def from_config(cls, config: dict) -> Criterion:
        """The criterion that `get_config` describes."""
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_dynhp")
class Taylor(Criterion):
    """The squared derivative of the loss by a gate on the neuron, averaged over steps.

    For a gate g = 1 multiplied onto a neuron h, dL/dg = sum of h dL/dh, which is also the sum of
    w dL/dw over the weights w that read the neuron: so it is read off the gradients that training
    has anyway (Molchanov et al. 2019, arXiv 1906.10771, eq. 8, averaged with momentum).
    """

    uses_gradients = True

    def score(self, group: ChannelGroup, gates: np.ndarray | None) -> np.ndarray:
        if gates is None:
            raise ValueError(
                "The taylor criterion needs gradients: give `data`, batches of (x, y), or use "
                'criterion="magnitude".'
            )
        return gates


@keras.saving.register_keras_serializable(package="keras_dynhp")
class Magnitude(Criterion):
    """The squared norm of a neuron's own weights, as a share of its group's.

    Weights that make the neuron count; where there are none (input features), those that read it.
    """

    def score(self, group: ChannelGroup, gates: np.ndarray | None) -> np.ndarray:
        makes = [p for p in group.places if p.role == "out" and len(p.variable.shape) > 1]
        total = np.zeros(group.size)
        for place in makes or [p for p in group.places if p.role == "in"] or group.places:
            total += summed(place, np.square(np.asarray(place.variable, np.float64)), group.size)
        return total / (total.sum() + 1e-30)


@keras.saving.register_keras_serializable(package="keras_dynhp")
class Random(Criterion):
    """Uniformly random scores; what any other criterion must beat.

    Args:
        seed: of NumPy's generator.
    """

    def __init__(self, seed: int = 0):
        self.seed = seed
        self._generator = np.random.default_rng(seed)

    def score(self, group: ChannelGroup, gates: np.ndarray | None) -> np.ndarray:
        return self._generator.random(group.size)

    def get_state(self) -> dict:
        return {"generator": self._generator.bit_generator.state}

    def set_state(self, state: dict) -> None:
        self._generator.bit_generator.state = state["generator"]

    def get_config(self) -> dict:
        return {"seed": self.seed}


def summed(place, values: np.ndarray, size: int) -> np.ndarray:
    """Sums of an array of a place's variable's shape, one for each neuron of its group."""
    others = tuple(axis for axis in range(values.ndim) if axis != place.axis)
    along = values.sum(axis=others)
    inside = place.index >= 0
    return np.bincount(place.index[inside], weights=along[inside], minlength=size)


_NAMES = {"taylor": Taylor, "magnitude": Magnitude, "random": Random}


def get(identifier: str | Criterion | dict) -> Criterion:
    """A criterion from its name, a configuration, or itself.

    Raises:
        ValueError: for an unknown name.
        TypeError: for anything else.
    """
    if isinstance(identifier, str):
        if identifier not in _NAMES:
            raise ValueError(
                f"Unknown criterion {identifier!r}. Choose from {', '.join(_NAMES)}, or pass a "
                "Criterion."
            )
        return _NAMES[identifier]()
    if isinstance(identifier, dict):
        found = keras.saving.deserialize_keras_object(identifier)
    else:
        found = identifier
    if not isinstance(found, Criterion):  # Keras hands back a dict that configures nothing
        raise TypeError(
            f"`criterion` must be a name ({', '.join(_NAMES)}), a Criterion, or the configuration "
            f"of one. Received: {identifier!r}"
        )
    return found
