"""Runs in a child process: TensorFlow Lite Micro on one model. Never imports TensorFlow.

`python tflm_probe.py MODEL NUM_INPUTS` prints the smallest arena that runs, `python tflm_probe.py
MODEL ARENA_BYTES INPUTS.npz OUTPUTS.npz NUM_OUTPUTS` runs samples. What the runtime says goes to
stderr. Every try at an arena is a fork of its own: too small an arena may crash, or never come back
from a loop whose counter was overwritten.
"""

import os
import re
import resource
import sys
import tempfile

# The directory of this script would shadow modules of the standard library's names.
sys.path.pop(0)

import numpy as np
from tflite_micro.python.tflite_micro import runtime

FIRST_ARENA = 1 << 18
LARGEST_ARENA = 1 << 31
STEP = 8
# Seconds of computing that one inference may take.
PATIENCE = 60


def smallest_arena(path: str, num_inputs: int) -> int:
    """Bytes of the smallest arena in which the model runs once."""

    seconds = PATIENCE

    def attempt(size: int) -> tuple[int, str]:
        return run_once(path, size, num_inputs, seconds)

    size = FIRST_ARENA
    while (said := attempt(size))[0]:
        # The plan of buffers lies in the arena too, so how many there may be depends on its size.
        short = ("too small", "llocat", "resize buffer", "Too many buffers")
        too_small = any(word in said[1] for word in short) or not said[1].strip()
        if size >= LARGEST_ARENA or not too_small:
            sys.exit(said[1])
        size *= 4
    # All children together took at least as long as the one that came back.
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = min(PATIENCE, 2 + int(10 * (used.ru_utime + used.ru_stime)))
    low = int(re.search(r"Arena allocation total (\d+) bytes", said[1]).group(1))
    if not attempt(low)[0]:
        return low
    # Preparing an operator may for a moment need more than is reported at the end.
    step = STEP
    while attempt(low + step)[0]:
        low, step = low + step, 2 * step
    high = low + step
    while high - low > STEP:
        middle = low + (high - low) // (2 * STEP) * STEP
        low, high = (middle, high) if attempt(middle)[0] else (low, middle)
    return high


def run_once(path: str, arena_bytes: int, num_inputs: int, seconds: int) -> tuple[int, str]:
    """Run once in a fork: its exit status (0: it ran) and what the runtime said.

    After so many seconds of computing it is killed, and then it said nothing.
    """
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            os.dup2(said.fileno(), 2)
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            status = 1
            try:
                interpreter = runtime.Interpreter.from_file(path, arena_size=arena_bytes)
                for number in range(num_inputs):
                    # What lies in the arena by chance may be a word that no vocabulary has.
                    given = interpreter.get_input_details(number)
                    interpreter.set_input(np.zeros(given["shape"], given["dtype"]), number)
                interpreter.invoke()
                interpreter.print_allocations()
                status = 0
            finally:
                os._exit(status)
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):
            return status, ""
        said.seek(0)
        return status, said.read().decode(errors="replace")


def run(path: str, arena_bytes: int, inputs_path: str, outputs_path: str, count: int) -> None:
    """Every one of `count` outputs of every sample."""
    interpreter = runtime.Interpreter.from_file(path, arena_size=arena_bytes)
    with np.load(inputs_path) as stored:
        inputs = [stored[f"input_{number}"] for number in range(len(stored.files))]
    outputs = [[] for _ in range(count)]
    for index in range(len(inputs[0])):
        for number, values in enumerate(inputs):
            interpreter.set_input(values[index : index + 1], number)
        interpreter.invoke()
        for number, rows in enumerate(outputs):
            rows.append(np.atleast_1d(interpreter.get_output(number).copy()))
    np.savez(
        outputs_path, **{f"output_{n}": np.concatenate(rows) for n, rows in enumerate(outputs)}
    )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(smallest_arena(sys.argv[1], int(sys.argv[2])))
    else:
        run(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]))
