"""TensorFlow Lite Micro on this machine: the arena a model needs, and what it computes."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile

import numpy as np

from keras_dynhp.export import flatbuffer

_PROBE = os.path.join(os.path.dirname(__file__), "tflm_probe.py")
_FIRST_ARENA = 1 << 20
_LARGEST_ARENA = 1 << 31
# How finely the smallest arena is looked for.
_STEP = 16


class MicroRuntimeError(RuntimeError):
    """TensorFlow Lite Micro refused or crashed on a model; the message is the runtime's own."""

    def __init__(self, message: str, node: int | None = None):
        super().__init__(message)
        self.node = node


def installed() -> bool:
    """Whether tflite-micro can be imported."""
    return importlib.util.find_spec("tflite_micro") is not None


def measure_arena(path: str) -> int:
    """Bytes of tensor arena that TensorFlow Lite Micro needs for a .tflite file.

    The runtime is asked for its own count in a generous arena, and then has to run in an arena of
    just that size; where it does not, the smallest that does is looked for. The build is a 64-bit
    one: for a 32-bit device the figure is an upper bound.

    Raises:
        ImportError: where tflite-micro is missing.
        MicroRuntimeError: where the runtime refuses the model.
    """
    size = _FIRST_ARENA
    while True:
        said, failed = _probe(path, size)
        used = re.search(r"Arena allocation total (\d+) bytes", said)
        if used and not failed:
            break
        if size >= _LARGEST_ARENA or not _arena_too_small(said):
            raise _refusal(said)
        size *= 8
    return _smallest_from(path, int(used.group(1)))


def _smallest_from(path: str, reported: int) -> int:
    """The smallest arena that runs, from what the runtime reports upwards.

    Mostly that is the report itself; preparing many operators may for a moment need more.
    """
    if not _probe(path, reported)[1]:
        return reported
    low, step = reported, _STEP
    while _probe(path, low + step)[1]:
        low, step = low + step, 2 * step
    high = low + step
    while high - low > _STEP:
        middle = low + (high - low) // (2 * _STEP) * _STEP
        if _probe(path, middle)[1]:
            low = middle
        else:
            high = middle
    return high


def run(path: str, inputs: list[np.ndarray], arena_bytes: int) -> np.ndarray:
    """The first output of every sample, in the file's own number type.

    Args:
        path: a .tflite file.
        inputs: for each input the samples in the file's own number type.
        arena_bytes: size of the tensor arena.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, made = os.path.join(folder, "inputs.npz"), os.path.join(folder, "outputs.npz")
        np.savez(given, **{f"input_{number}": values for number, values in enumerate(inputs)})
        said, failed = _probe(path, arena_bytes, given, made)
        if failed:
            raise _refusal(said)
        with np.load(made) as stored:
            return stored["output_0"]


def refused_operator(path: str, error: MicroRuntimeError) -> str | None:
    """The operator that a refusal is about, by the node number in the runtime's message."""
    if error.node is None:
        return None
    with open(path, "rb") as file:
        model = flatbuffer.read(file.read())
    operators = model.subgraphs[0].operators
    if error.node >= len(operators):
        return None
    return flatbuffer.operator_name(model, operators[error.node])


def _probe(path: str, arena_bytes: int, *files: str) -> tuple[str, bool]:
    """What the runtime said, and whether it failed."""
    if not installed():
        raise ImportError(
            "measuring with TensorFlow Lite Micro needs tflite-micro: "
            'pip install "keras-dynhp[device]"'
        )
    done = subprocess.run(
        [sys.executable, _PROBE, path, str(arena_bytes), *files],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    return done.stderr, done.returncode != 0


def _arena_too_small(said: str) -> bool:
    return "Arena size is too small" in said or "Failed to allocate" in said or not said.strip()


def _refusal(said: str) -> MicroRuntimeError:
    node = re.search(r"Node \w+ \(number (\d+)f?\)", said)
    lines = [line for line in said.splitlines() if line.strip() and "File " not in line]
    reason = " ".join(lines[:3]) or "the process crashed"
    return MicroRuntimeError(
        f"TensorFlow Lite Micro cannot run the model: {reason}",
        int(node.group(1)) if node else None,
    )
