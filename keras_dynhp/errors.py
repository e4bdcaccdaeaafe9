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
