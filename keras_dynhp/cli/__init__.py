"""The command line: `keras-dynhp`, also `python -m keras_dynhp`."""

from __future__ import annotations

import json
import os
import sys

from absl import app, flags

FLAGS = flags.FLAGS

# Exit codes that scripts can use: done; failed; wrong use; what is asked for is not possible (a
# target that can't be reached, a budget in which nothing can be trained).
OK, FAILED, USAGE, IMPOSSIBLE, INTERRUPTED = 0, 1, 2, 3, 130

flags.DEFINE_bool("json", False, "Print one JSON object instead of text.")
flags.DEFINE_bool("debug", False, "Show the whole traceback of an error.")


def run() -> None:
    """Entry point of the `keras-dynhp` command."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # The commands define their flags when they are imported; TensorFlow is imported with them.
    from keras_dynhp.cli import commands  # noqa: F401

    def parse(argv):
        try:
            return FLAGS(argv)
        except flags.Error as error:
            _complain(f"{error}", USAGE)

    app.run(main, flags_parser=parse)


def main(argv: list[str]) -> None:
    """Run one command; errors are one line unless --debug."""
    from keras_dynhp.cli.commands import COMMANDS
    from keras_dynhp.errors import BudgetError
    from keras_dynhp.pruning.selection import Unreachable

    if len(argv) < 2 or argv[1] not in COMMANDS:
        given = f"Received: {argv[1]!r}. " if len(argv) > 1 else ""
        known = "\n".join(f"  {name:<8} {c.__doc__}" for name, c in COMMANDS.items())
        _complain(
            f"{given}Usage: keras-dynhp COMMAND ... [--json] [--debug], with COMMAND one of\n"
            f"{known}\nkeras-dynhp --help lists all flags.",
            USAGE,
        )
    if not FLAGS.debug:
        _silence_native_code()
    try:
        result = COMMANDS[argv[1]](*_operands(argv[1], argv[2:]))
    except KeyboardInterrupt:
        _complain("interrupted", INTERRUPTED)
    except Exception as error:
        if FLAGS.debug:
            raise
        impossible = isinstance(error, (BudgetError, Unreachable))
        message = f"{type(error).__name__}: {' '.join(str(error).split())}"
        _complain(message, IMPOSSIBLE if impossible else FAILED)
    if FLAGS.json:
        print(json.dumps(result.data, indent=2, default=str))
    else:
        print(result.text)
    sys.exit(OK if result.possible else IMPOSSIBLE)


def _operands(command: str, given: list[str]) -> list[str]:
    if len(given) != 1:
        _complain(
            f"`keras-dynhp {command}` takes one path. Received: {given or 'none'}. "
            f"Flags are written --flag=value.",
            USAGE,
        )
    return given


def progress(message: str) -> None:
    """Say what a long command is doing; on stderr, so that output stays clean."""
    print(message, file=sys.stderr, flush=True)


def _silence_native_code() -> None:
    """What C++ says on descriptor 2 goes nowhere; Python's stderr stays."""
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _complain(message: str, code: int) -> None:
    print(f"keras-dynhp: {message}", file=sys.stderr)
    sys.exit(code)
