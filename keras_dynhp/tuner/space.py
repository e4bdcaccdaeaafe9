"""What a search may vary: from Keras Tuner's hyperparameters to the arguments of `DynHP`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from keras_dynhp import schedules
from keras_dynhp.costs.target import Target
from keras_dynhp.schedules import Schedule
from keras_dynhp.sizes import parse_size
from keras_dynhp.tuner.rates import FullNetwork, GroupRates, smaller_widths

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
RATES = "rates"
LIMITS = ("compression", "params", "macs", "flash", "ram", RATES)
DEFAULT_RANGES = {"compression": (2, 20), RATES: (0.0, 0.9)}


@dataclass(frozen=True)
class Space:
    """The settings of a search.

    Attributes:
        limit: what is searched of how hard to prune, one of `LIMITS`.
        target: its values, a list to choose from or a range `(low, high)`; of rates, also a dict
            of such by the name of a group.
        values: those of the other settings, by name: a list, a range, or one value.
    """

    limit: str
    target: list | tuple | dict
    values: dict

    @classmethod
    def of(cls, search: Iterable[str] | Mapping, target_range: tuple | None) -> Space:
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
        limit = limits[0]
        wanted = given.pop(limit, target_range or DEFAULT_RANGES.get(limit))
        if wanted is None:
            raise ValueError(
                f"What {limit} to search depends on the network: give target_range=(low, high)."
            )
        if limit in ("flash", "ram"):
            wanted = type(wanted)(parse_size(value) for value in wanted)
        others = [name for name in names if name not in LIMITS]
        space = cls(limit, wanted, {n: given.get(n, DEFAULT_VALUES[n]) for n in others})
        space._check()
        return space

    def _check(self) -> None:
        ranges = self.target.values() if isinstance(self.target, dict) else [self.target]
        for wanted in ranges:
            if isinstance(wanted, tuple) and (len(wanted) != 2 or not wanted[0] <= wanted[1]):
                raise ValueError(
                    f"`target_range` must be (low, high) of {self.limit!r}. Received: {wanted}"
                )
            for value in _all(wanted):
                self._check_limit(value)
        latest = max(_all(self.values.get("start", 0.0)))
        earliest = min(_all(self.values.get("end", 1.0)))
        if not 0 <= latest < earliest <= 1:
            raise ValueError(
                "Pruning must begin before it ends, both as shares of the training: the largest "
                f"`start` is {latest}, the smallest `end` is {earliest}."
            )

    def _check_limit(self, value) -> None:
        if self.limit != RATES:
            Target(**{self.limit: value})
        elif not 0 <= value < 1:
            raise ValueError(
                "A rate is the share of a group's neurons that goes, in [0, 1). Received: "
                f"{value!r}"
            )
        elif "prune_inputs" in self.values:
            raise ValueError("Rates are of the groups of layers; leave prune_inputs out.")

    def settings(self, hp, full: FullNetwork) -> dict:
        """The settings of one trial; what is searched becomes known to Keras Tuner's `hp`."""
        others = {name: _value(hp, name, values) for name, values in self.values.items()}
        if self.limit == RATES:
            return {RATES: _rates(hp, self.target, full), **others}
        return {self.limit: _limit(hp, self.limit, self.target), **others}

    def limits(self, settings: Mapping, full: FullNetwork) -> dict:
        """The limit of a trial as `Target` takes it; of the full network, shares become counts.

        For a trial of Hyperband goes on with a network that has been pruned already.
        """
        if self.limit == RATES:
            return {"params": full.parameters_at(_widths(settings, full))}
        if self.limit == "compression":
            return {"params": max(1, int(full.parameters / settings[self.limit]))}
        return {self.limit: settings[self.limit]}


def callback_arguments(settings: Mapping, full: FullNetwork) -> dict:
    """The arguments of `DynHP`, but for target and budget, that the settings of a trial mean."""
    names = ("criterion", "batch_size", "prune_inputs", "round_to")
    arguments = {name: settings[name] for name in names if name in settings}
    if RATES in settings:
        criterion = arguments.get("criterion", "taylor")
        arguments["criterion"] = GroupRates(criterion, _widths(settings, full))
    schedule = schedules.get(settings.get("schedule", "cubic"))
    shares = {name: settings[name] for name in ("start", "end") if name in settings}
    if shares and isinstance(schedule, Schedule):
        schedule = schedule.from_config({**schedule.get_config(), **shares})
    return {**arguments, "schedule": schedule}


def _widths(settings: Mapping, full: FullNetwork) -> dict[str, int]:
    return smaller_widths(full.sizes, settings[RATES], settings.get("round_to", 1))


def _rates(hp, values, full: FullNetwork) -> dict[str, float]:
    """The rate of each group that has one.

    Hyperparameters are numbered in the order of `find_groups`: Keras names the layers that a user
    has not named anew in each process.
    """
    wanted = values if isinstance(values, dict) else dict.fromkeys(full.sizes, values)
    unknown = set(wanted) - set(full.sizes)
    if unknown:
        raise ValueError(
            f"The groups of the network are {', '.join(full.sizes)}. Received rates of "
            f"{', '.join(sorted(unknown))}"
        )
    numbers = {name: number for number, name in enumerate(full.sizes, start=1)}
    return {name: _value(hp, f"rate_{numbers[name]}", wanted[name]) for name in wanted}


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
