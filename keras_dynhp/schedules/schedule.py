"""Pruning schedules."""

from __future__ import annotations

from collections.abc import Callable

import keras


@keras.saving.register_keras_serializable(package="keras_dynhp")
class Schedule:
    """How far pruning has come, as a function of how far training has come.

    A schedule is called with the training progress in [0, 1] and returns the fraction in [0, 1] of
    the way from the full network to the target. It is 0 until `start`, 1 from `end` on, and
    follows `curve` in between. Subclass and override `curve`.

    Args:
        start: progress at which pruning begins; training before it is the dense warm-up.
        end: progress at which the target is reached; training after it is fine-tuning.

    Raises:
        ValueError: unless 0 <= start < end <= 1.
    """

    def __init__(self, start: float = 0.1, end: float = 0.5):
        if not 0 <= start < end <= 1:
            raise ValueError(
                "A schedule needs 0 <= start < end <= 1 (shares of the whole training). Received: "
                f"start={start}, end={end}"
            )
        self.start = float(start)
        self.end = float(end)

    def curve(self, progress: float) -> float:
        """The fraction at a progress of 0 (`start`) to 1 (`end`) between the two."""
        raise NotImplementedError("Override `curve` in a subclass of Schedule.")

    def __call__(self, progress: float) -> float:
        if progress < self.start:
            return 0.0
        if progress >= self.end:
            return 1.0
        return float(self.curve((progress - self.start) / (self.end - self.start)))

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return {"start": self.start, "end": self.end}

    @classmethod
    def from_config(cls, config: dict) -> Schedule:
        """The schedule that `get_config` describes."""
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_dynhp")
class Cubic(Schedule):
    """Fast at first, gentle at the end: `1 - (1 - t)^3` (Zhu and Gupta, arXiv 1710.01878).

    Example:

    >>> from keras_dynhp.schedules import Cubic
    >>> [round(Cubic(start=0.0, end=1.0)(p), 3) for p in (0.0, 0.5, 1.0)]
    [0.0, 0.875, 1.0]
    """

    def curve(self, progress: float) -> float:
        return 1.0 - (1.0 - progress) ** 3


@keras.saving.register_keras_serializable(package="keras_dynhp")
class Linear(Schedule):
    """The same amount at every step.

    Example:

    >>> from keras_dynhp.schedules import Linear
    >>> Linear(start=0.2, end=0.6)(0.3)
    0.25
    """

    def curve(self, progress: float) -> float:
        return round(progress, 12)


@keras.saving.register_keras_serializable(package="keras_dynhp")
class Geometric(Schedule):
    """The same share of what is left at every step, down to `ratio` of the full network.

    Args:
        start: as in `Schedule`.
        end: as in `Schedule`.
        ratio: what is left at the end, as a share; 0.1 suits a compression of 10.
    """

    def __init__(self, start: float = 0.1, end: float = 0.5, ratio: float = 0.1):
        super().__init__(start, end)
        if not 0 < ratio < 1:
            raise ValueError(f"`ratio` must lie between 0 and 1. Received: ratio={ratio}")
        self.ratio = float(ratio)

    def curve(self, progress: float) -> float:
        return (1.0 - self.ratio**progress) / (1.0 - self.ratio)

    def get_config(self) -> dict:
        return {**super().get_config(), "ratio": self.ratio}


@keras.saving.register_keras_serializable(package="keras_dynhp")
class Constant(Schedule):
    """All at once, at `start`."""

    def curve(self, progress: float) -> float:
        return 1.0


_NAMES = {"cubic": Cubic, "linear": Linear, "geometric": Geometric, "constant": Constant}


def get(identifier: str | Schedule | Callable) -> Callable:
    """A schedule from its name, a configuration, or any callable of the progress.

    Args:
        identifier: `"cubic"`, `"linear"`, `"geometric"`, `"constant"`, a `Schedule`, or a
            callable from progress to fraction.

    Raises:
        ValueError: for an unknown name.
        TypeError: for anything that is not callable.
    """
    if isinstance(identifier, str):
        if identifier not in _NAMES:
            raise ValueError(
                f"Unknown schedule {identifier!r}. Choose from {', '.join(_NAMES)}, or pass a "
                "Schedule or a callable progress -> fraction."
            )
        return _NAMES[identifier]()
    if isinstance(identifier, dict):
        return keras.saving.deserialize_keras_object(identifier)
    if not callable(identifier):
        raise TypeError(
            "`schedule` must be a name, a Schedule, or a callable progress -> fraction. Received: "
            f"{identifier!r}"
        )
    return identifier


def fraction(schedule: Callable, progress: float, step: int) -> float:
    """Ask any schedule for the fraction at a progress, and check what it says.

    The pruning schedules of tensorflow-model-optimization are asked for the optimizer `step`;
    they answer `(should_prune, sparsity)`, of which the sparsity counts, relative to their last.

    Raises:
        ValueError: if the answer is not a number in [0, 1].
    """
    last = getattr(schedule, "final_sparsity", getattr(schedule, "target_sparsity", None))
    if last is not None:
        _, sparsity = schedule(_as_step(step))
        answer = float(sparsity) / float(last) if float(last) else 0.0
    else:
        answer = float(schedule(progress))
    if not 0.0 <= answer <= 1.0:
        raise ValueError(
            f"A schedule must return a fraction in [0, 1]. Received {answer} from {schedule!r} at "
            f"progress {progress:.3f}."
        )
    return answer


def _as_step(step: int):
    import tensorflow as tf

    return tf.constant(step, tf.int64)
