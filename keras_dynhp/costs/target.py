"""Target: what the final network must satisfy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

import keras

from keras_dynhp.sizes import parse_size


@keras.saving.register_keras_serializable(package="keras_dynhp")
@dataclass(frozen=True)
class Target:
    """What the final network must satisfy; several limits together must all hold.

    Args:
        compression: how many times fewer parameters than the full network, above 1.
        params: the most parameters.
        macs: the most multiply-accumulates for one sample.
        flash: the most bytes of the int8 `.tflite` file; an int, or a string such as `"64KB"`.
        ram: the most bytes of the tensor arena of the int8 network on TensorFlow Lite Micro.

    Raises:
        TypeError: if a limit that must be a number is none.
        ValueError: if nothing is given, or a limit is not positive.

    Example:

    >>> from keras_dynhp import Target
    >>> Target(compression=10, flash="64KB")
    Target(compression=10, params=None, macs=None, flash=65536, ram=None)
    """

    compression: float | None = None
    params: int | None = None
    macs: int | None = None
    flash: int | str | None = None
    ram: int | str | None = None

    def __post_init__(self):
        for name in ("flash", "ram"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, parse_size(value))
        for name in ("compression", "params", "macs"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Real):
                raise TypeError(f"`{name}` must be a number. Received: {name}={value!r}")
        if self.compression is not None and not 1 < self.compression < math.inf:
            raise ValueError(
                "`compression` must be above 1, and finite. Received: "
                f"compression={self.compression!r}"
            )
        for name in ("params", "macs"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not 0 < value < math.inf):
                raise ValueError(
                    f"`{name}` must be positive and finite. Received: {name}={value!r}"
                )
        if all(value is None for value in self.get_config().values()):
            raise ValueError(
                "A Target needs at least one limit: compression=, params=, macs=, flash= or ram=."
            )

    @classmethod
    def for_device(cls, name: str, share: float = 0.5) -> Target:
        """The flash and RAM of a well-known board, a share of it left for the application.

        Args:
            name: a board of `keras_dynhp.export.boards`, such as `"arduino-nano-33-ble"`.
            share: how much of the board's flash and RAM the network may take.

        Raises:
            ValueError: for an unknown board, with the known ones.
        """
        from keras_dynhp.export.boards import board

        if not 0 < share <= 1:
            raise ValueError(f"`share` must lie in (0, 1]. Received: share={share!r}")
        found = board(name)
        return cls(flash=int(found.flash * share), ram=int(found.ram * share))

    def limits(self, full: dict[str, float]) -> dict[str, float]:
        """Each limited resource with its limit; `full` holds the full network's figures."""
        limits = {
            name: float(value)
            for name, value in self.get_config().items()
            if value is not None and name != "compression"
        }
        if self.compression is not None:
            most = full["params"] / self.compression
            limits["params"] = min(most, limits.get("params", most))
        return limits

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return {
            "compression": self.compression,
            "params": self.params,
            "macs": self.macs,
            "flash": self.flash,
            "ram": self.ram,
        }

    @classmethod
    def from_config(cls, config: dict) -> Target:
        """The target that `get_config` describes."""
        return cls(**config)
