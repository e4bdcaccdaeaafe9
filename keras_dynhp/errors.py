"""Errors of this package."""

from __future__ import annotations


class BudgetError(ValueError):
    """A model can't be trained in the budget: says what is needed, what was given, what fits.

    Attributes:
        needed: bytes that training with the smallest batch takes.
        given: the budget in bytes.
    """

    def __init__(self, message: str, needed: int, given: int):
        super().__init__(message)
        self.needed = needed
        self.given = given


class TargetError(ValueError):
    """A trained network's int8 file or arena is larger than its target allows.

    Attributes:
        missed: by `"flash"` or `"ram"`, the real bytes and the limit.
        report: the `DeviceReport` of the network as it is.
    """

    def __init__(self, message: str, missed: dict[str, tuple[int, int]], report):
        super().__init__(message)
        self.missed = missed
        self.report = report
