"""For the API reference: doctests of docstrings become blocks of code."""

from __future__ import annotations

import re

import griffe

# An example as our docstrings have it: "Example:", and doctest lines up to the next blank line.
EXAMPLE = re.compile(r"^Example:\n\n(>>> .*?)(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)


class Doctests(griffe.Extension):
    """Fences the example of each docstring, so that Markdown does not read it as text."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        """Called with each class, function, module and attribute."""
        if obj.docstring is not None:
            text = EXAMPLE.sub(r"**Example**\n\n```pycon\n\1\n```", obj.docstring.value)
            obj.docstring.value = text
