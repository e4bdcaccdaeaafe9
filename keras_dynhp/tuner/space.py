"""What a search may vary: from Keras Tuner's hyperparameters to the arguments of `DynHP`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from keras_dynhp import schedules
from keras_dynhp.costs.target import Target
from keras_dynhp.schedules import Schedule
from keras_dynhp.sizes import parse_size

# Every hyperparameter of ours begins with this, so none clashes with those of the user's function.
PREFIX = "dynhp/"
# Trials share their beginnings where those are equal: hence steps.
STEP = 0.05

# What is searched where only the name of a setting is given: a list to choose from, or a range.
DEFAULT_VALUES = {
    "criterion": ["taylor", "magnitude"],
    "schedule": ["cubic", "linear", "geometric"],
    "start": (0.05, 0.35),
    "end": (0.45, 0.8),
    "batch_size": ["dynamic", "fixed"],
    "prune_inputs": [False, True],
    "round_to": [1, 4, 8],
}
LIMITS = ("compression", "params", "macs", "flash", "ram")


@dataclass(frozen=True)
class Space:
    """The settings of a search.

    Attributes:
        limit: the limit that is searched, one of `LIMITS`.
        target: its values, a list to choose from or a range `(low, high)`.
        values: those of the other settings, by name: a list, a range, or one value.
    """

    limit: str
    target: list | tuple
    values: dict

    @classmethod
    def of(cls, search: Iterable[str] | Mapping, target_range: tuple) -> Space:
        """Check what a user asks to search, as `PruningHyperModel` takes it.

        Raises:
            ValueError: for unknown settings, or ranges that make no sense.
        """
        names = [search] if isinstance(search, str) else list(search)
        given = dict(search) if isinstance(search, Mapping) else {}
        unknown = [name for name in names if name not in (*LIMITS, *DEFAULT_VALUES)]
        if unknown:
            raise ValueError(
                f"`search` knows {', '.join((*LIMITS, *DEFAULT_VALUES))}. Received: {unknown}"
            )
        limits = [name for name in names if name in LIMITS] or ["compression"]
        if len(limits) > 1:
            raise ValueError(
                f"`search` takes one limit; fixed ones belong in `limits`. Received: {limits}"
            )
        wanted = given.pop(limits[0], target_range)
        if limits[0] in ("flash", "ram"):
            wanted = type(wanted)(parse_size(value) for value in wanted)
        others = [name for name in names if name not in LIMITS]
        space = cls(limits[0], wanted, {n: given.get(n, DEFAULT_VALUES[n]) for n in others})
        space._check()
        return space

    def _check(self) -> None:
        if isinstance(self.target, tuple) and (
            len(self.target) != 2 or not self.target[0] <= self.target[1]
        ):
            raise ValueError(
                f"`target_range` must be (low, high) of {self.limit!r}. Received: {self.target}"
            )
        for value in self.target:
            Target(**{self.limit: value})
        latest = max(_all(self.values.get("start", 0.0)))
        earliest = min(_all(self.values.get("end", 1.0)))
        if not 0 <= latest < earliest <= 1:
            raise ValueError(
                "Pruning must begin before it ends, both as shares of the training: the largest "
                f"`start` is {latest}, the smallest `end` is {earliest}."
            )

    def settings(self, hp) -> dict:
        """The settings of one trial; what is searched becomes known to Keras Tuner's `hp`."""
        return {
            self.limit: _limit(hp, self.limit, self.target),
            **{name: _value(hp, name, values) for name, values in self.values.items()},
        }

    def limits(self, settings: Mapping, full_parameters: int) -> dict:
        """The limit of a trial as `Target` takes it; a compression becomes a parameter count.

        For a trial of Hyperband goes on with a network that has been pruned already.
        """
        if self.limit != "compression":
            return {self.limit: settings[self.limit]}
        return {"params": max(1, int(full_parameters / settings[self.limit]))}


def callback_arguments(settings: Mapping) -> dict:
    """The arguments of `DynHP`, but for target and budget, that the settings of a trial mean."""
    names = ("criterion", "batch_size", "prune_inputs", "round_to")
    arguments = {name: settings[name] for name in names if name in settings}
    schedule = schedules.get(settings.get("schedule", "cubic"))
    shares = {name: settings[name] for name in ("start", "end") if name in settings}
    if shares and isinstance(schedule, Schedule):
        schedule = schedule.from_config({**schedule.get_config(), **shares})
    return {**arguments, "schedule": schedule}


def _limit(hp, name: str, values: list | tuple):
    if isinstance(values, list):
        return hp.Choice(PREFIX + name, values)
    low, high = values
    if low == high:
        return low
    kind = hp.Float if name == "compression" else hp.Int
    return kind(PREFIX + name, low, high, sampling="log")


def _value(hp, name: str, values):
    if isinstance(values, list):
        return hp.Choice(PREFIX + name, values)
    if isinstance(values, tuple):
        return hp.Float(PREFIX + name, *values, step=STEP)
    return values


def _all(values) -> list:
    return list(values) if isinstance(values, (list, tuple)) else [values]
