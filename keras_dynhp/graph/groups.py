"""Channel groups: the neurons that must go together, and what can't go at all."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import keras
import numpy as np

import keras_dynhp.graph.rules  # noqa: F401  (registers the rules)
from keras_dynhp.graph.drawing import draw, render
from keras_dynhp.graph.survivors import Survivors
from keras_dynhp.graph.trace import Trace, trace_model
from keras_dynhp.keras_state import graph as ks


@dataclass(frozen=True)
class Place:
    """One axis of one variable that holds a group's neurons.

    `index[i]` is the neuron at position `i` of that axis, -1 where another group's lies.
    """

    variable: keras.Variable
    axis: int
    role: str
    layer: str
    index: np.ndarray = field(repr=False)


@dataclass
class ChannelGroup:
    """Neurons that go together: `size` of them, made by `layers`, read by `readers`."""

    name: str
    size: int
    layers: list[str]
    tied: list[str]
    readers: list[str]
    places: list[Place] = field(repr=False)
    reason: str | None = None  # why it can't be pruned; None for a prunable group

    @property
    def prunable(self) -> bool:
        """Whether neurons of the group may go."""
        return self.reason is None

    def to_dict(self) -> dict:
        """Plain data, without the variables."""
        out = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        out["places"] = [
            {"variable": p.variable.path, "axis": p.axis, "role": p.role} for p in self.places
        ]
        return out


class ChannelGroups:
    """The channel groups and barriers of a model, as `find_groups` returns them.

    Iterating gives the prunable groups. `kept` are the groups that can't go, each with its
    `reason`; `barriers` maps layers through which channels can't be followed to the reason.
    """

    def __init__(self, trace: Trace):
        self.trace = trace
        units = trace.units
        self._roots = units.roots()
        pinned = units.pinned(self._roots)
        self._group_of = np.full(units.count, -1, np.int64)  # for every unit, its group
        self._neuron_of = np.full(units.count, -1, np.int64)  # ... and its number in it
        self.groups: list[ChannelGroup] = []
        self.kept: list[ChannelGroup] = []
        self.barriers = {path: calls[0].why for path, calls in trace.barriers.items()}
        self._form(pinned)

    # ---- forming ----------------------------------------------------------------------------

    def _form(self, pinned: dict[int, str]) -> None:
        roots = self._roots
        signature = self._signatures()
        atoms: dict[tuple, list[int]] = {}
        for root in np.unique(roots).tolist():
            atoms.setdefault((int(signature[root]), pinned.get(root)), []).append(root)
        everything: list[tuple[np.ndarray, str | None]] = []
        for (_, reason), members in atoms.items():
            if reason is None and len(members) == 1:
                reason = "only one neuron (or one set that must go together) is left"
            everything.append((np.array(members), reason))
        number_of = np.full(len(roots), -1, np.int64)
        neuron_of_root = np.full(len(roots), -1, np.int64)
        for number, (members, _) in enumerate(everything):
            number_of[members] = number
            neuron_of_root[members] = np.arange(len(members))
        makers = self._makers(number_of[roots] if len(roots) else roots, len(everything))
        places = self._places(number_of, neuron_of_root, len(everything))
        names: dict[str, int] = {}
        renumber = np.full(len(everything), -1, np.int64)
        for number, (members, reason) in enumerate(everything):
            layers = makers[number]
            name = layers[0] if layers else "?"
            names[name] = names.get(name, 0) + 1
            if names[name] > 1:
                name = f"{name}#{names[name]}"
            group = ChannelGroup(
                name,
                len(members),
                layers,
                _unique(p.layer for p in places[number] if p.role == "along"),
                _unique(p.layer for p in places[number] if p.role == "in"),
                places[number],
                reason,
            )
            if reason is None:
                renumber[number] = len(self.groups)
                self.groups.append(group)
            else:
                self.kept.append(group)
        if len(roots):
            self._group_of = renumber[number_of[roots]]
            self._neuron_of = neuron_of_root[roots]

    def _signatures(self) -> np.ndarray:
        """Atoms in the same places of the same variables get the same number."""
        random = np.random.default_rng(0)
        signature = np.zeros(len(self._roots), np.uint64)

        def mark(vector):
            members = np.unique(self._roots[vector[vector >= 0]])
            signature[members] ^= random.integers(1, 2**63, dtype=np.uint64)

        for entry in self.trace.variables.values():
            for vector in entry.vectors:
                if vector is not None:
                    mark(vector)
        for section in self.trace.sections:
            mark(section)
        for gather in self.trace.gathers.values():
            mark(gather.vector)
        return signature

    def _makers(self, group_of_unit: np.ndarray, count: int) -> list[list[str]]:
        makers: list[list[str]] = [[] for _ in range(count)]
        if not len(group_of_unit):
            return makers
        producers = np.asarray(self.trace.producers_of_units())
        for number, producer in np.unique(np.stack([group_of_unit, producers]), axis=1).T.tolist():
            name = self.trace.producers[producer].layer
            if name not in makers[number]:
                makers[number].append(name)
        return makers

    def _places(self, number_of, neuron_of_root, count: int) -> list[list[Place]]:
        places: list[list[Place]] = [[] for _ in range(count)]
        roots = self._roots
        for entry in self.trace.variables.values():
            for axis, (vector, role) in enumerate(zip(entry.vectors, entry.roles)):
                if vector is None or not (vector >= 0).any():
                    continue
                safe = np.maximum(vector, 0)
                groups = np.where(vector >= 0, number_of[roots[safe]], -1)
                neurons = np.where(vector >= 0, neuron_of_root[roots[safe]], -1)
                for number in np.unique(groups[groups >= 0]).tolist():
                    index = np.where(groups == number, neurons, -1)
                    places[number].append(Place(entry.variable, axis, role, entry.layer, index))
        return places

    def keep(self, reasons: Mapping[str, str]) -> None:
        """Let prunable groups stay whole, each for a reason."""
        stays = np.array([group.name in reasons for group in self.groups], bool)
        renumber = np.append(np.where(stays, -1, np.cumsum(~stays) - 1), -1)  # -1 stays -1
        self._group_of = renumber[self._group_of]
        for group in self.groups:
            if group.name in reasons:
                self.kept.append(dataclasses.replace(group, reason=reasons[group.name]))
        self.groups = [group for group in self.groups if group.name not in reasons]

    # ---- using ------------------------------------------------------------------------------

    @property
    def everything(self) -> list[ChannelGroup]:
        """The prunable groups and those that can't go."""
        return [*self.groups, *self.kept]

    def __iter__(self) -> Iterator[ChannelGroup]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, key: int | str) -> ChannelGroup:
        if isinstance(key, int):
            return self.groups[key]
        for group in self.groups:
            if group.name == key:
                return group
        raise KeyError(
            f"No prunable group {key!r}. There are: {', '.join(g.name for g in self.groups)}"
        )

    def survivors(self, keep: Mapping[str, np.ndarray], allow_empty: bool = False) -> Survivors:
        """Which units stay when, in each named group, the neurons marked true stay.

        A group may lose every neuron only with `allow_empty`, and only if `plan_rebuild` can then
        remove a whole branch.
        """
        alive = np.ones(len(self._roots), bool)
        for name, mask in keep.items():
            group = self[name]
            mask = np.asarray(mask).astype(bool)
            if mask.shape != (group.size,):
                raise ValueError(
                    f"The mask of group {name!r} must have shape ({group.size},). Received a mask "
                    f"of shape {mask.shape}."
                )
            if not (mask.any() or allow_empty):
                raise ValueError(
                    f"The mask of group {name!r} would remove all of its {group.size} neurons; at "
                    "least one must stay."
                )
            members = self._group_of == self.groups.index(group)
            alive[members] = mask[self._neuron_of[members]]
        return Survivors(alive)

    def neurons_of(self, vector: np.ndarray) -> dict[int, np.ndarray]:
        """For each prunable group in a vector of labels, the neuron at every position, or -1."""
        if not len(self._group_of):
            return {}
        safe = np.maximum(vector, 0)
        groups = np.where(vector >= 0, self._group_of[safe], -1)
        return {
            int(number): np.where(groups == number, self._neuron_of[safe], -1)
            for number in np.unique(groups[groups >= 0])
        }

    def units_of(self, group: ChannelGroup) -> tuple[np.ndarray, np.ndarray]:
        """The units of a group and, for each, the number of its neuron."""
        members = np.flatnonzero(self._group_of == self.groups.index(group))
        return members, self._neuron_of[members]

    def unread(self) -> np.ndarray:
        """For every unit, whether it may go and nothing reads it, or one that it goes with."""
        read = np.zeros(len(self._roots), bool)
        for vector in self.trace.live:
            read[self._roots[vector[vector >= 0]]] = True
        return (self._group_of >= 0) & ~read[self._roots]

    @property
    def neurons(self) -> int:
        """How many neurons may go, over all groups."""
        return sum(group.size for group in self.groups)

    @property
    def prunable_share(self) -> float:
        """The share of the model's parameters that lie in variables of prunable groups."""
        inside = {id(place.variable) for group in self.groups for place in group.places}
        sizes = {id(v): int(np.prod(v.shape)) for v in self.trace.model.weights}
        total = sum(sizes.values())
        return sum(sizes[key] for key in sizes if key in inside) / total if total else 0.0

    def to_dict(self) -> dict:
        """Plain data for programs."""
        return {
            "groups": [group.to_dict() for group in self.groups],
            "kept": [group.to_dict() for group in self.kept],
            "barriers": dict(self.barriers),
            "prunable_share": self.prunable_share,
        }

    def to_dot(self) -> str:
        """The graph in Graphviz's language, every group in its own colour."""
        return draw(self)

    def render(self, path: str | os.PathLike) -> None:
        """Draw the graph to a file: `.dot` as text; `.svg`, `.png` where Graphviz is installed.

        Raises:
            RuntimeError: if Graphviz is needed and not installed, or fails.
        """
        render(self, path)

    def __str__(self) -> str:
        lines = [
            f"{_counted(len(self.groups), 'prunable group')}, {_counted(self.neurons, 'neuron')}, "
            f"{self.prunable_share:.1%} of the parameters"
        ]
        everything = self.everything
        width = min(max((len(group.name) for group in everything), default=0), 40)
        digits = max((len(str(group.size)) for group in everything), default=0)

        def start(group):
            return f"  {group.name:<{width}}  {group.size:>{digits}} neuron{_s(group.size)}"

        lines += [start(group) + _ties(group) for group in self.groups]
        if self.kept:
            lines.append("kept:")
            lines += [f"{start(group)}: {self._in_short(group.reason)}" for group in self.kept]
        if self.barriers:
            lines.append("barriers:")
            for reason in dict.fromkeys(self.barriers.values()):
                names = [layer for layer, why in self.barriers.items() if why == reason]
                lines.append(f"  {_listed(names)}: {reason}")
        return "\n".join(lines)

    def _in_short(self, reason: str) -> str:
        """A reason without what the list of barriers says about its barrier."""
        for why in set(self.barriers.values()):
            if reason.endswith(f": {why}"):
                return f"{reason.removesuffix(f': {why}')}, a barrier"
        return reason

    __repr__ = __str__


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{_s(count)}"


def _ties(group: ChannelGroup) -> str:
    parts = []
    if group.layers[1:]:
        parts.append("with " + _listed(group.layers[1:]))
    if group.tied:
        parts.append("through " + _listed(group.tied))
    if group.readers:
        parts.append("read by " + _listed(group.readers))
    return "".join(f", {part}" for part in parts)


def _listed(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return " ".join(names[:most]) + more


def _unique(names) -> list[str]:
    return list(dict.fromkeys(names))


def check_backend() -> None:
    """Refuse another backend than TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "keras_dynhp needs Keras's TensorFlow backend. Received: "
            f"{keras.backend.backend()!r}. Set KERAS_BACKEND=tensorflow before importing keras."
        )


def check_model(model: keras.Model) -> None:
    """Refuse what can't be traced, with what to do about it."""
    check_backend()
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {type(model).__name__}")
    if ks.functional_of(model) is None:
        if isinstance(model, keras.Sequential):
            raise ValueError(
                f"Sequential model {model.name!r} is not built, so its shapes are unknown. Start "
                "it with keras.Input(shape) or call model.build(input_shape)."
            )
        raise ValueError(
            f"Model {model.name!r} is a subclassed model ({type(model).__name__}), whose call() "
            "can't be seen into. Write it as a graph before it is compiled: "
            "model = keras_dynhp.to_functional(model, keras.Input(shape))."
        )


def find_groups(model: keras.Model, prune_inputs: bool = False) -> ChannelGroups:
    """Find the channel groups of a model, and the barriers between them.

    Args:
        model: a built Sequential or Functional Keras 3 model; models inside it are followed too.
        prune_inputs: make groups of the model's input features as well.

    Returns:
        The groups, which print as a table and iterate as `ChannelGroup` objects.

    Raises:
        TypeError: if `model` is not a Keras model.
        ValueError: if it is subclassed or not built, or another backend is in use.

    Example:

    >>> import keras, keras_dynhp as dynhp
    >>> model = keras.Sequential(
    ...     [keras.Input((8,)), keras.layers.Dense(6, name="a"), keras.layers.Dense(3, name="b")]
    ... )
    >>> print(dynhp.find_groups(model))
    1 prunable group, 6 neurons, 96.0% of the parameters
      a  6 neurons, read by b
    kept:
      b  3 neurons: an output of the model (b)
    """
    check_model(model)
    return ChannelGroups(trace_model(model, prune_inputs))
