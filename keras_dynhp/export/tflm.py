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

_ADVICE = (
    "It has fewer kernels than TensorFlow Lite, some for float32 or for int8 only: export with "
    "another `quantize`, replace what the layer computes, or compute it outside the model."
)


class MicroRuntimeError(RuntimeError):
    """TensorFlow Lite Micro refused or crashed on a model: what it said, and what can be done.

    `operator` is the name of the operator that it refuses and `number` the operator's place in its
    subgraph (a model's own, or the body of a loop), if it names one.
    """

    def __init__(self, message: str, operator: str | None = None, number: int | None = None):
        super().__init__(message)
        self.operator = operator
        self.number = number


def installed() -> bool:
    """Whether tflite-micro can be imported."""
    return importlib.util.find_spec("tflite_micro") is not None


def measure_arena(path: str) -> int:
    """Bytes of tensor arena that TensorFlow Lite Micro needs for a .tflite file.

    It is the smallest arena in which the runtime has run the model on this machine, to within 8
    bytes. The build is a 64-bit one: for a 32-bit device the figure is an upper bound.

    Raises:
        ImportError: where tflite-micro is missing.
        MicroRuntimeError: where the runtime refuses the model.
    """
    with open(path, "rb") as file:
        inputs = flatbuffer.read(file.read()).subgraphs[0].inputs
    return int(_probe(path, str(len(inputs))))


def run(path: str, inputs: list[np.ndarray], arena_bytes: int) -> list[np.ndarray]:
    """Every output of every sample, in the file's own number types.

    Args:
        path: a .tflite file.
        inputs: for each input the samples in the file's own number type.
        arena_bytes: size of the tensor arena.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, made = os.path.join(folder, "inputs.npz"), os.path.join(folder, "outputs.npz")
        np.savez(given, **{f"input_{number}": values for number, values in enumerate(inputs)})
        with open(path, "rb") as file:
            count = len(flatbuffer.read(file.read()).subgraphs[0].outputs)
        _probe(path, str(arena_bytes), given, made, str(count))
        with np.load(made) as stored:
            return [stored[f"output_{number}"] for number in range(count)]


def _probe(path: str, *arguments: str) -> str:
    """What the child process printed; raises with what the runtime said where it failed."""
    if not installed():
        raise ImportError(
            "measuring with TensorFlow Lite Micro needs tflite-micro: "
            'pip install "keras-dynhp[device]"'
        )
    done = subprocess.run(
        [sys.executable, _PROBE, path, *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise _refusal(done.stderr)
    return done.stdout


def _refusal(said: str) -> MicroRuntimeError:
    # What failed first is the operator itself; then come the loops that it is in.
    node = re.search(r"Node (\w+) \(number (\d+)f?\)", said)
    lines = [line for line in said.splitlines() if line.strip() and "File " not in line]
    reason = " ".join(lines[:3]) or "the process crashed"
    return MicroRuntimeError(
        f"TensorFlow Lite Micro cannot run the model: {reason}. {_ADVICE}",
        node.group(1) if node else None,
        int(node.group(2)) if node else None,
    )
