"""Runs in a child process: TensorFlow Lite Micro on one model. Never imports TensorFlow.

Called as `python tflm_probe.py MODEL ARENA_BYTES [INPUTS.npz OUTPUTS.npz]`. What the runtime says
goes to stderr, where the parent reads the arena figure; a crash ends only this process.
"""

import sys

# The directory of this script would shadow modules of the standard library's names.
sys.path.pop(0)


def run(path: str, arena_bytes: int, inputs_path: str | None, outputs_path: str | None) -> None:
    """Allocate, invoke once on zeros or on every sample, and print the allocations."""
    import numpy as np
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_file(path, arena_size=arena_bytes)
    if inputs_path is None:
        interpreter.invoke()
    else:
        with np.load(inputs_path) as stored:
            inputs = [stored[f"input_{number}"] for number in range(len(stored.files))]
        first = []
        for index in range(len(inputs[0])):
            for number, values in enumerate(inputs):
                interpreter.set_input(values[index : index + 1], number)
            interpreter.invoke()
            first.append(interpreter.get_output(0).copy())
        np.savez(outputs_path, output_0=np.concatenate(first))
    interpreter.print_allocations()


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]), *(sys.argv[3:5] or (None, None)))
