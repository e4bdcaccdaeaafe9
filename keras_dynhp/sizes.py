"""Sizes in bytes, as people write them."""

from __future__ import annotations

import re
from numbers import Integral

_UNITS = {"": 1, "B": 1, "KB": 1024, "MB": 1024**2, "GB": 1024**3}


def parse_size(size: int | str) -> int:
    """Bytes from an int or a string such as `"512KB"`, `"4MB"`, `"1.5 MB"`; 1 KB is 1024 bytes.

    Raises:
        ValueError: for anything else, or a size that is not positive.

    Example:

    >>> from keras_dynhp.sizes import parse_size
    >>> parse_size("4MB")
    4194304
    """
    number = size
    if isinstance(size, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKmMgG]?[bB]?)\s*", size)
        if match:
            number = int(float(match.group(1)) * _UNITS[match.group(2).upper().rstrip("B") + "B"])
    if isinstance(number, bool) or not isinstance(number, Integral) or number <= 0:
        raise ValueError(
            "A size must be a positive number of bytes, or a string such as '512KB' or '1.5MB'. "
            f"Received: {size!r}"
        )
    return int(number)


def format_size(size: float) -> str:
    """A size for people: `"4.0 MB"`."""
    for unit, factor in (("GB", 1024**3), ("MB", 1024**2), ("KB", 1024)):
        if abs(size) >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} B"
