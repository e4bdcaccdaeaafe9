"""The command line: `keras-dynhp`, also `python -m keras_dynhp`."""

from __future__ import annotations

import contextlib
import json
import os
import sys

from absl import flags

# Not absl's global ones: a program that imports this may define flags of the same names.
FLAGS = flags.FlagValues()

# Exit codes that scripts can use: done; failed; wrong use; what is asked for is not possible (a
# target that can't be reached, a budget in which nothing can be trained).
OK, FAILED, USAGE, IMPOSSIBLE, INTERRUPTED = 0, 1, 2, 3, 130

flags.DEFINE_bool("help", False, "Show commands and flags.", short_name="h", flag_values=FLAGS)
flags.DEFINE_bool("json", False, "Print one JSON object instead of text.", flag_values=FLAGS)
flags.DEFINE_bool("debug", False, "Show the whole traceback of an error.", flag_values=FLAGS)


class UsageError(ValueError):
    """The command was given what it can't take; the exit code says so."""


def run() -> None:
    """Entry point of the `keras-dynhp` command."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(main(sys.argv))


def main(argv: list[str]) -> int:
    """Run one command; errors are one line unless --debug.

    Args:
        argv: the program's name, the command, its path and flags.

    Returns:
        The exit code.
    """
    # The commands define their flags when they are imported; TensorFlow is imported with them.
    from keras_dynhp.cli.commands import COMMANDS
    from keras_dynhp.errors import BudgetError
    from keras_dynhp.pruning.selection import Unreachable

    for name in FLAGS:
        FLAGS[name].unparse()  # of an earlier call
    try:
        given = FLAGS(argv)[1:]
    except flags.Error as error:
        return _complain(f"{error}", USAGE)
    known = "\n".join(f"  {name:<8} {c.__doc__}" for name, c in COMMANDS.items())
    usage = f"Usage: keras-dynhp COMMAND PATH [--flag=value ...], with COMMAND one of\n{known}"
    if FLAGS.help:
        print(f"{usage}\n{FLAGS.get_help()}")
        return OK
    if not given or given[0] not in COMMANDS:
        received = f"Received: {given[0]!r}. " if given else ""
        return _complain(f"{received}{usage}\nkeras-dynhp --help lists all flags.", USAGE)
    command, *paths = given
    if len(paths) != 1:
        return _complain(
            f"`keras-dynhp {command}` takes one path. Received: {paths or 'none'}. "
            f"Flags are written --flag=value.",
            USAGE,
        )
    try:
        with contextlib.nullcontext() if FLAGS.debug else _silent_native_code():
            result = COMMANDS[command](*paths)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except Exception as error:
        if FLAGS.debug:
            raise
        if isinstance(error, UsageError):
            return _complain(f"{error}", USAGE)
        impossible = isinstance(error, (BudgetError, Unreachable))
        message = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return _complain(message, IMPOSSIBLE if impossible else FAILED)
    if FLAGS.json:
        print(json.dumps(result.data, indent=2, default=str))
    else:
        print(result.text)
    return OK if result.possible else IMPOSSIBLE


def progress(message: str) -> None:
    """Say what a long command is doing; on stderr, so that output stays clean."""
    print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _silent_native_code():
    """What C++ says on descriptor 2 goes nowhere; Python's stderr stays."""
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        with os.fdopen(os.dup(saved), "w", buffering=1) as stays, contextlib.redirect_stderr(stays):
            yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def _complain(message: str, code: int) -> int:
    print(f"keras-dynhp: {message}", file=sys.stderr)
    return code
