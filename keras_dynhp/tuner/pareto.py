"""The Pareto front of a search: which network to take under which limit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import keras

from keras_dynhp.sizes import format_size, parse_size

IN_BYTES = ("flash", "ram", "train_memory")


@dataclass(frozen=True)
class Candidate:
    """A finished trial.

    Attributes:
        trial: Keras Tuner's id of it.
        quality: the metric by which networks are compared.
        costs: by name; bytes, or counts.
        settings: the values of its hyperparameters.
    """

    trial: str
    quality: float
    costs: dict[str, float]
    settings: dict


class ParetoFront:
    """The networks of a search that no other one beats in quality and in every cost.

    Prints as a table. Trials that failed or missed their target are left out.

    Args:
        tuner: a Keras Tuner tuner of a `PruningHyperModel`, after its search or reloaded.
        costs: what is to be small: among `"params"`, `"macs"`, `"train_memory"`, and `"flash"`,
            `"ram"` where the search measured them.
        quality: the metric to compare by; the tuner's objective if None.

    Attributes:
        candidates: the networks of the front, the smallest first cost first.
        others: the finished trials that one of them beats.

    Raises:
        ValueError: if no trial has finished on its target, or a metric was not measured.
    """

    def __init__(self, tuner, costs: Iterable[str] = ("params",), quality: str | None = None):
        self.costs = (costs,) if isinstance(costs, str) else tuple(costs)
        self._tuner = tuner
        objective = tuner.oracle.objective
        parts = {part.name: part for part in getattr(objective, "objectives", [objective])}
        if quality is None and len(parts) > 1:
            raise ValueError(f"`quality` must name one of the objectives {sorted(parts)}.")
        self.quality = quality or next(iter(parts))
        everyone, self.direction = self._read(tuner, parts.get(self.quality))
        front = [one for one in everyone if not any(self._beats(other, one) for other in everyone)]
        self.candidates = sorted(front, key=self._order)
        self.others = [one for one in everyone if one not in front]

    def _read(self, tuner, objective) -> tuple[list[Candidate], str]:
        found, direction = [], objective.direction if objective else None
        # The chief of several workers tells its trials only in this way.
        for trial in tuner.oracle.get_best_trials(2**30):
            if trial.status != "COMPLETED":
                continue
            for name in (self.quality, *self.costs):
                if not trial.metrics.exists(name):
                    raise ValueError(
                        f"Trial {trial.trial_id} has no metric {name!r}, only "
                        f"{sorted(trial.metrics.metrics)}. Flash and RAM are measured with "
                        'PruningHyperModel(..., measure=("flash", "ram")).'
                    )
            values = {n: trial.metrics.get_last_value(n) for n in (self.quality, *self.costs)}
            direction = direction or trial.metrics.get_direction(self.quality)
            missed = trial.metrics.exists("missed") and trial.metrics.get_last_value("missed")
            if not missed:
                quality = values.pop(self.quality)
                settings = dict(trial.hyperparameters.values)
                found.append(Candidate(trial.trial_id, quality, values, settings))
        if not found:
            raise ValueError(
                "No trial has finished with a network that meets its target; "
                "tuner.results_summary() says what became of them."
            )
        return found, direction

    def _beats(self, one: Candidate, other: Candidate) -> bool:
        at_least = self._sign * one.quality >= self._sign * other.quality and all(
            one.costs[name] <= other.costs[name] for name in self.costs
        )
        return at_least and (one.quality, one.costs) != (other.quality, other.costs)

    @property
    def _sign(self) -> int:
        return 1 if self.direction == "max" else -1

    def _order(self, one: Candidate):
        return [one.costs[name] for name in self.costs]

    def best(self, **limits: int | str) -> Candidate:
        """The network to take under limits, such as `best(flash="64KB", macs=100_000)`.

        Raises:
            ValueError: if no network of the front is that small, with the smallest.
        """
        unknown = set(limits) - set(self.costs)
        if unknown:
            raise ValueError(f"This front has the costs {self.costs}. Received: {sorted(unknown)}")
        most = {n: parse_size(v) if n in IN_BYTES else v for n, v in limits.items()}
        fit = [one for one in self.candidates if all(one.costs[n] <= most[n] for n in most)]
        if not fit:
            least = {n: min(one.costs[n] for one in self.candidates) for n in most}
            raise ValueError(
                f"No network of the front has {_listed(most)}; the least of each are "
                f"{_listed(least)}."
            )
        return max(fit, key=lambda one: self._sign * one.quality)

    def load(self, candidate: Candidate) -> keras.Model:
        """The pruned network of a candidate, with its weights."""
        return self._tuner.load_model(self._tuner.oracle.get_trial(candidate.trial))

    def plot(self, path: str | None = None):
        """A matplotlib figure, a panel for each cost: the front, and what it beats.

        Args:
            path: also write the picture there.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4.5 * len(self.costs), 3.6), layout="constrained")
        for panel, name in zip(figure.subplots(1, len(self.costs), squeeze=False)[0], self.costs):
            scale = 1024 if name in IN_BYTES else 1
            for group, style in ((self.others, "x"), (self.candidates, "o")):
                costs = [one.costs[name] / scale for one in group]
                panel.plot(costs, [one.quality for one in group], style, label=_LABELS[style])
            # Under a limit between two networks of the front, the smaller one is to be taken.
            ordered = sorted(self.candidates, key=lambda one: one.costs[name])
            panel.step(
                [one.costs[name] / scale for one in ordered],
                _running_best([self._sign * one.quality for one in ordered], self._sign),
                where="post",
                color="C1",
                linewidth=1,
            )
            panel.set(xlabel=name + (", KB" if scale > 1 else ""), ylabel=self.quality)
            panel.legend(loc=f"{'lower' if self._sign > 0 else 'upper'} right")
        if path is not None:
            figure.savefig(path, dpi=120)
        return figure

    def __iter__(self):
        return iter(self.candidates)

    def __len__(self) -> int:
        return len(self.candidates)

    def __str__(self) -> str:
        ours = sorted(
            {n for one in self.candidates for n in one.settings if n.startswith("dynhp/")}
        )
        head = ["trial", self.quality, *self.costs, *(n.removeprefix("dynhp/") for n in ours)]
        rows = [
            [one.trial, f"{one.quality:.4f}", *(_written(n, one.costs[n]) for n in self.costs)]
            + [_short(one.settings.get(n, "")) for n in ours]
            for one in self.candidates
        ]
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths))
            for row in [head, *rows]
        )

    __repr__ = __str__


_LABELS = {"x": "beaten", "o": "Pareto front"}


def _running_best(values: list[float], sign: int) -> list[float]:
    best, result = float("-inf"), []
    for value in values:
        best = max(best, value)
        result.append(sign * best)
    return result


def _written(name: str, value: float) -> str:
    return format_size(value) if name in IN_BYTES else f"{value:,.0f}"


def _listed(costs: dict) -> str:
    return ", ".join(f"{name} <= {_written(name, value)}" for name, value in costs.items())


def _short(value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
