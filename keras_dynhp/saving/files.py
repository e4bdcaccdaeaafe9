"""One file for a tree of plain values and arrays, replaced in one step."""

from __future__ import annotations

import io
import json
import os
import pathlib
import tempfile
from collections.abc import Callable

import numpy as np

__all__ = ["read_tree", "replace_file", "tree_bytes", "write_tree"]

_TREE = "tree"  # the entry of the file that holds everything but the arrays
_ARRAY = "__array__"


def replace_file(path: str | os.PathLike, write: Callable[[str], None]) -> None:
    """Write a file so that there is always either the old one or the whole new one.

    `write` is given the path of a temporary file beside the real one. What it wrote is flushed to
    the disk, then takes the place of the real file in one step of the file system.

    Args:
        path: the file; its folder is made if need be.
        write: called with the path to write to (same extension as `path`).

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "answer.txt"
    >>> replace_file(path, lambda temporary: pathlib.Path(temporary).write_text("42"))
    >>> path.read_text()
    '42'
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Keras tells formats by the extension, and a name of its own cannot clash with another run.
    handle, temporary = tempfile.mkstemp(
        prefix=f".{path.name}.", suffix="".join(path.suffixes), dir=path.parent
    )
    os.close(handle)
    try:
        write(temporary)
        _flush(temporary)
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's are for the owner alone
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise
    _flush(path.parent)


def remove_leftovers(path: str | os.PathLike) -> None:
    """Delete the temporary files that killed runs left beside a file."""
    path = pathlib.Path(path)
    for leftover in path.parent.glob(f".{path.name}.*"):
        leftover.unlink(missing_ok=True)


def write_tree(path: str | os.PathLike, tree) -> None:
    """Write nested dictionaries and lists of numbers, strings, None and arrays to one file.

    Args:
        path: the file, replaced in one step.
        tree: dictionaries have strings for keys; tuples come back as lists.

    Example:

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "state.npz")
    >>> write_tree(path, {"epoch": 3, "scores": [np.array([1.0, 2.0])]})
    >>> read_tree(path)
    {'epoch': 3, 'scores': [array([1., 2.])]}
    """
    content = tree_bytes(tree)
    replace_file(path, lambda temporary: pathlib.Path(temporary).write_bytes(content))


def tree_bytes(tree) -> bytes:
    """What `write_tree` would write."""
    arrays: dict[str, np.ndarray] = {}
    plain = _without_arrays(tree, arrays)
    buffer = io.BytesIO()
    np.savez(buffer, **{_TREE: np.array(json.dumps(plain))}, **arrays)
    return buffer.getvalue()


def read_tree(path: str | os.PathLike):
    """What `write_tree` wrote.

    Raises:
        ValueError: the file is none of ours, or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return _with_arrays(json.loads(str(file[_TREE])), file)
    except (ValueError, KeyError, EOFError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(
            f"{os.fspath(path)!r} is not a file of keras_dynhp, or is damaged ({error}). Delete it "
            "to begin afresh."
        ) from error


def _without_arrays(value, arrays: dict[str, np.ndarray]):
    if isinstance(value, dict):
        return {str(key): _without_arrays(item, arrays) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_arrays(item, arrays) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, np.ndarray):
        return value
    name = f"array_{len(arrays)}"
    # NumPy writes no bfloat16 or float8; float32 holds all of their values.
    arrays[name] = value.astype("float32") if value.dtype.kind == "V" else value
    return {_ARRAY: name}


def _with_arrays(value, file):
    if isinstance(value, list):
        return [_with_arrays(item, file) for item in value]
    if isinstance(value, dict):
        if set(value) == {_ARRAY}:
            return file[value[_ARRAY]]
        return {key: _with_arrays(item, file) for key, item in value.items()}
    return value


def _flush(path) -> None:
    """Make the disk hold what has been written to a file or folder."""
    if os.name == "nt" and os.path.isdir(path):
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
