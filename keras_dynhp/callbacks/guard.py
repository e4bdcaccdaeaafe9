"""AccuracyGuard: the last prune is undone where it costs too much."""

from __future__ import annotations

import math
import numbers
import pathlib
import tempfile

import keras

from keras_dynhp.keras_state.fit import running_fit
from keras_dynhp.keras_state.monitor import is_higher_better, metric_names
from keras_dynhp.pruning.engine import Engine, Memory
from keras_dynhp.saving.files import read_tree

__all__ = ["AccuracyGuard"]

# Half the step, half of that, ...: below this share of the whole way pruning has stopped.
SMALLEST_STEP = 1 / 64


class AccuracyGuard:
    """Watches a metric while a network is pruned, and undoes what costs too much of it.

    An epoch whose metric is more than `max_drop` worse than that of the best epoch is a bad one.
    After it nothing is pruned, and neurons on trial come back. If more than `patience` bad epochs
    follow each other, the last prune is undone: the network of before comes back from disk with
    its weights and its optimizer's. If it is trials that make epochs bad, more than `patience` of
    them since the last prune, nothing has to be undone. In both cases pruning goes on in steps
    half as large, until they are too small to matter.

    Args:
        max_drop: how much worse than the best epoch's the metric may be, in its own units.
        monitor: its name in the logs.
        patience: how many bad epochs a network is given to recover.

    Raises:
        TypeError: for a drop that is no number, or a `monitor` that is no name.
        ValueError: for a drop or a patience that is negative or not finite.
    """

    def __init__(self, max_drop: float, monitor: str = "val_accuracy", patience: int = 2):
        if isinstance(max_drop, bool) or not isinstance(max_drop, numbers.Real):
            raise TypeError(_drop_message(max_drop))
        if not math.isfinite(max_drop) or max_drop < 0:
            raise ValueError(_drop_message(max_drop))
        if not isinstance(monitor, str) or not monitor:
            raise TypeError(
                "`monitor` must be the name of a metric as it stands in the logs, such as "
                f'"val_accuracy". Received: monitor={monitor!r}'
            )
        if patience < 0:
            raise ValueError(f"`patience` must not be negative. Received: patience={patience!r}")
        self.max_drop = float(max_drop)
        self.monitor = monitor
        self.patience = patience
        self._folder: tempfile.TemporaryDirectory | None = None
        self.reset()

    def reset(self) -> None:
        """Forget everything: another network begins."""
        self.reached = 0.0  # the fraction that has been pruned
        self._before = 0.0  # ... before the last prune
        self._step = 1.0  # how far the next prune may go
        self._trial = 0.0  # the fraction that is on trial
        self._best: float | None = None
        self._bad = 0  # bad epochs one after the other
        self._bad_trials = 0  # since the last prune
        self._memory: Memory | None = None

    @property
    def has_stopped(self) -> bool:
        """Whether pruning has been given up."""
        return self._step < SMALLEST_STEP

    def begin(self, model: keras.Model) -> None:
        """When `fit` begins.

        Raises:
            ValueError: a metric that this fit will not have.
        """
        fit = running_fit(model)
        validates = fit.arguments["val_x"] is not None
        if self.monitor.startswith("val_") and not validates:
            raise ValueError(
                f"monitor={self.monitor!r} is a metric of validation data, and `fit` was given "
                "none. Pass `validation_data` or `validation_split` to `fit`, or monitor a metric "
                "of the training data."
            )
        names = metric_names(model, fit.epoch_iterator)
        if names is not None:
            self._check_known(names + [f"val_{name}" for name in names if validates])
            self._sign(model)
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="keras_dynhp_")

    def end(self) -> None:
        """When `fit` ends: nothing stays on disk."""
        self._memory = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def on_trial(self, fraction: float) -> float:
        """How far a trial may go where the schedule says `fraction`."""
        self._trial = self.limit(fraction)
        return self._trial

    def limit(self, fraction: float) -> float:
        """How far pruning may go where the schedule says `fraction`."""
        if self._bad or self.has_stopped:
            return min(fraction, self.reached)
        return min(fraction, self.reached + self._step)

    def before_prune(self, fraction: float, engine: Engine) -> float:
        """Keep the network on disk, should there be a prune to undo.

        Returns:
            How far to prune where the schedule says `fraction`: no farther than was on trial.
        """
        fraction = min(self.limit(fraction), max(self.reached, self._trial))
        if fraction > self.reached:
            self._memory = Memory(engine, self._file())
            self._before, self.reached = self.reached, fraction
            self._bad_trials = 0
        return fraction

    def see(self, epoch: int, logs: dict, engine: Engine) -> list[str]:
        """Judge an epoch before its prune; undoes the last prune if it is time to.

        Returns:
            Notes for the report.

        Raises:
            ValueError: the metric is not in the logs.
        """
        value = self._value(logs)
        if value is None:
            return []
        sign = self._sign(engine.model)
        if self._best is None or sign * value > sign * self._best:
            self._best = value
        if sign * (self._best - value) <= self.max_drop:
            self._bad = 0
            return []
        self._bad += 1
        self._bad_trials += self._trial > self.reached
        fell = f"{self.monitor} was more than {self.max_drop:g} worse than {self._best:.4g}"
        if self._bad > self.patience and self._memory is not None:
            engine.go_back(self._memory)
            done = (
                f"{fell} for {self._bad} epochs, so the last prune (from {self._before:.0%} to "
                f"{self.reached:.0%} of the way to the target) was undone"
            )
            self._go_on_from(self._before, until=self.reached)
        elif self._bad_trials > self.patience:
            done = (
                f"{fell} in {self._bad_trials} trials of neurons (from {self.reached:.0%} to "
                f"{self._trial:.0%} of the way to the target), so these stay"
            )
            self._go_on_from(self.reached, until=self._trial)
        elif self._bad == self.patience + 1:
            done = f"{fell} for {self._bad} epochs, so nothing more is pruned until it recovers"
            return [f"Epoch {epoch + 1}: {done}."]
        else:
            return []
        goes_on = "pruning goes on in steps half as large"
        then = "steps have become too small to go on" if self.has_stopped else goes_on
        return [f"Epoch {epoch + 1}: {done}; {then}."]

    def _go_on_from(self, reached: float, until: float) -> None:
        self._step = (until - reached) / 2
        self.reached, self._memory = reached, None
        # An epoch must show first that this network is a good one.
        self._bad, self._bad_trials = 1, 0

    def _value(self, logs: dict) -> float | None:
        validated = any(name.startswith("val_") for name in logs)
        if self.monitor.startswith("val_") and not validated:
            return None  # `validation_freq` leaves epochs out
        self._check_known(logs)
        return float(logs[self.monitor])

    def _sign(self, model: keras.Model) -> float:
        higher = is_higher_better(model, self.monitor)
        if higher is None:
            raise ValueError(
                f"It is not known whether monitor={self.monitor!r} is better high or low. Monitor "
                "a loss or one of Keras's metrics, or a metric with an attribute "
                '`_direction` of "up" or "down", as Keras\'s have.'
            )
        return 1.0 if higher else -1.0

    def _check_known(self, names) -> None:
        if self.monitor not in names:
            raise ValueError(
                f"monitor={self.monitor!r} is not among the metrics of this fit. Received: "
                f"{', '.join(sorted(names))}. Choose one of them, or add it to "
                "compile(metrics=...)."
            )

    def _file(self) -> pathlib.Path:
        return pathlib.Path(self._folder.name) / "before_the_last_prune.npz"

    def get_state(self) -> dict:
        """What the guard goes on with after a crash, the network on disk included."""
        return {
            "reached": self.reached,
            "before": self._before,
            "step": self._step,
            "trial": self._trial,
            "best": self._best,
            "bad": self._bad,
            "bad_trials": self._bad_trials,
            "memory": None if self._memory is None else read_tree(self._memory.path),
        }

    def set_state(self, state: dict, engine: Engine) -> None:
        """Go on from a state; leaves the engine at the network that is kept on disk."""
        self.reached, self._before = state["reached"], state["before"]
        self._step, self._trial = state["step"], state["trial"]
        self._best, self._bad = state["best"], state["bad"]
        self._bad_trials = state["bad_trials"]
        if state["memory"] is not None:
            engine.set_state(state["memory"])
            self._memory = Memory(engine, self._file(), state["memory"])


def _drop_message(max_drop) -> str:
    return (
        "`max_drop` must be a number that is not negative: how much of the metric pruning may "
        f"cost, 0.01 for one point of accuracy. Received: max_drop={max_drop!r}"
    )
