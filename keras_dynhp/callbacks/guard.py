"""AccuracyGuard: the last prune is undone where it costs too much."""

from __future__ import annotations

import math
import pathlib
import tempfile

import keras

from keras_dynhp.keras_state.fit import running_fit
from keras_dynhp.keras_state.monitor import is_higher_better
from keras_dynhp.pruning.engine import Engine, Memory
from keras_dynhp.saving.files import read_tree

__all__ = ["AccuracyGuard"]

# Half the step, half of that, ...: below this share of the whole way pruning has stopped.
SMALLEST_STEP = 1 / 64


class AccuracyGuard:
    """Watches a metric while a network is pruned, and undoes what costs too much of it.

    An epoch whose metric is more than `max_drop` worse than that of the best epoch is a bad one.
    After it nothing is pruned, and what was masked wakes up. If more than `patience` bad epochs
    follow each other, the last prune is undone: the network of before comes back from disk with
    its weights and its optimizer's, and from there pruning takes steps half as large, until they
    are too small to matter.

    Args:
        max_drop: how much worse than the best epoch's the metric may be, in its own units.
        monitor: its name in the logs.
        patience: how many bad epochs a network is given to recover.

    Raises:
        ValueError: for a drop or a patience that is negative or not finite.
    """

    def __init__(self, max_drop: float, monitor: str = "val_accuracy", patience: int = 2):
        if isinstance(max_drop, bool) or not math.isfinite(max_drop) or max_drop < 0:
            raise ValueError(
                "`max_drop` must be a number that is not negative: how much of the metric pruning "
                f"may cost, 0.01 for one point of accuracy. Received: max_drop={max_drop!r}"
            )
        if patience < 0:
            raise ValueError(f"`patience` must not be negative. Received: patience={patience!r}")
        self.max_drop = float(max_drop)
        self.monitor = monitor
        self.patience = patience
        self.reached = 0.0  # the fraction that has been pruned
        self._before = 0.0  # ... before the last prune
        self._step = 1.0  # how far the next prune may go
        self._best: float | None = None
        self._bad = 0  # bad epochs one after the other
        self._memory: Memory | None = None
        self._folder: tempfile.TemporaryDirectory | None = None

    @property
    def has_stopped(self) -> bool:
        """Whether pruning has been given up."""
        return self._step < SMALLEST_STEP

    def begin(self, model: keras.Model) -> None:
        """When `fit` begins.

        Raises:
            ValueError: a validation metric without validation data.
        """
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="keras_dynhp_")
        if self.monitor.startswith("val_") and running_fit(model).arguments["val_x"] is None:
            raise ValueError(
                f"monitor={self.monitor!r} is a metric of validation data, and `fit` was given "
                "none. Pass `validation_data` or `validation_split` to `fit`, or monitor a metric "
                "of the training data."
            )

    def end(self) -> None:
        """When `fit` ends: nothing stays on disk."""
        self._memory = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def limit(self, fraction: float) -> float:
        """How far pruning may go where the schedule says `fraction`."""
        if self._bad or self.has_stopped:
            return min(fraction, self.reached)
        return min(fraction, self.reached + self._step)

    def before_prune(self, fraction: float, engine: Engine) -> None:
        """Keep the network on disk, should there be a prune to undo."""
        if fraction > self.reached and not self._bad:
            self._memory = Memory(engine, self._file())
            self._before, self.reached = self.reached, fraction

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
        sign = 1.0 if is_higher_better(engine.model, self.monitor) else -1.0
        if self._best is None or sign * value > sign * self._best:
            self._best = value
        if sign * (self._best - value) <= self.max_drop:
            self._bad = 0
            return []
        self._bad += 1
        if self._bad <= self.patience or self._memory is None:
            return []
        engine.go_back(self._memory)
        note = (
            f"Epoch {epoch + 1}: {self.monitor} had been more than {self.max_drop:g} worse than "
            f"{self._best:.4g} for {self._bad} epochs, so the last prune (from "
            f"{self._before:.0%} to {self.reached:.0%} of the way to the target) was undone."
        )
        self._step = (self.reached - self._before) / 2
        self.reached, self._bad, self._memory = self._before, 0, None
        if self.has_stopped:
            note += " Smaller steps would not matter: pruning stopped there."
        return [note]

    def _value(self, logs: dict) -> float | None:
        if self.monitor in logs:
            return float(logs[self.monitor])
        validated = any(name.startswith("val_") for name in logs)
        if self.monitor.startswith("val_") and not validated:
            return None  # `validation_freq` leaves epochs out
        raise ValueError(
            f"monitor={self.monitor!r} is not among the metrics of this fit. Received: "
            f"{', '.join(sorted(logs))}. Choose one of them, or add it to compile(metrics=...)."
        )

    def _file(self) -> pathlib.Path:
        return pathlib.Path(self._folder.name) / "before_the_last_prune.npz"

    def get_state(self) -> dict:
        """What the guard goes on with after a crash, the network on disk included."""
        return {
            "reached": self.reached,
            "before": self._before,
            "step": self._step,
            "best": self._best,
            "bad": self._bad,
            "memory": None if self._memory is None else read_tree(self._memory.path),
        }

    def set_state(self, state: dict, engine: Engine) -> None:
        """Go on from a state; leaves the engine at the network that is kept on disk."""
        self.reached, self._before = state["reached"], state["before"]
        self._step, self._best, self._bad = state["step"], state["best"], state["bad"]
        if state["memory"] is not None:
            engine.set_state(state["memory"])
            self._memory = Memory(engine, self._file(), state["memory"])
