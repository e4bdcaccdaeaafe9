"""Keeps what native code writes to stderr off the user's screen."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings


@contextlib.contextmanager
def captured_stderr():
    """C++ writes to the descriptor itself: until the end what it says goes to a file."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as chatter, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saved = os.dup(2)
        os.dup2(chatter.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
