"""The LiteRT interpreter on this machine: outputs in real numbers, and how long they take."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence

import numpy as np

from keras_dynhp.export.quiet import captured_stderr


def installed() -> bool:
    """Whether ai-edge-litert can be imported."""
    return importlib.util.find_spec("ai_edge_litert") is not None


# Whose kernels compute: XNNPACK's where it can, as LiteRT does unless told otherwise; LiteRT's own
# optimized ones; or its plain reference ones, from which TensorFlow Lite Micro's were made.
KERNELS = {
    "xnnpack": "AUTO",
    "own": "BUILTIN_WITHOUT_DEFAULT_DELEGATES",
    "reference": "BUILTIN_REF",
}


def make_interpreter(content: bytes, kernels: str = "xnnpack", threads: int = 1):
    """An allocated LiteRT interpreter.

    Args:
        content: the bytes of a .tflite file.
        kernels: a name in `KERNELS`.
        threads: threads that a kernel may use.

    Raises:
        ImportError: where ai-edge-litert is missing.
        ValueError: where an operator has no such kernel.
    """
    if not installed():
        raise ImportError(
            'running a .tflite file here needs ai-edge-litert: pip install "keras-dynhp[device]"'
        )
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kind = OpResolverType[KERNELS[kernels]]
    with captured_stderr():
        interpreter = Interpreter(
            model_content=content, num_threads=threads, experimental_op_resolver_type=kind
        )
        interpreter.allocate_tensors()
    return interpreter


def quantize(values: np.ndarray, details: dict) -> np.ndarray:
    """Real numbers as the file's own: `round(x / scale) + zero_point`, saturated."""
    scale, zero = details["quantization"]
    dtype = details["dtype"]
    if not scale or not np.issubdtype(dtype, np.integer):
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    steps = np.round(values.astype(np.float64) / scale) + zero
    return np.clip(steps, limits.min, limits.max).astype(dtype)


def dequantize(values: np.ndarray, details: dict) -> np.ndarray:
    """The file's own numbers as real ones."""
    scale, zero = details["quantization"]
    if not scale or not np.issubdtype(values.dtype, np.integer):
        return values
    return ((values.astype(np.float64) - zero) * scale).astype(np.float32)


def run_raw(interpreter, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Every output of every sample, given and returned in the file's own number types."""
    into = interpreter.get_input_details()
    outputs = [details["index"] for details in interpreter.get_output_details()]
    results: list[list[np.ndarray]] = [[] for _ in outputs]
    for index in range(len(inputs[0])):
        for details, values in zip(into, inputs):
            interpreter.set_tensor(details["index"], values[index : index + 1])
        interpreter.invoke()
        for rows, output in zip(results, outputs):
            rows.append(np.atleast_1d(interpreter.get_tensor(output)))
    return [np.concatenate(rows) for rows in results]


def run(interpreter, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Every output of every sample, in real numbers."""
    into = interpreter.get_input_details()
    raw = run_raw(interpreter, [quantize(x, details) for details, x in zip(into, inputs)])
    return [
        dequantize(values, details)
        for values, details in zip(raw, interpreter.get_output_details())
    ]


def milliseconds(interpreter, repeats: int = 50) -> float:
    """Median time of one inference on whatever the input tensors hold."""
    interpreter.invoke()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        interpreter.invoke()
        times.append(time.perf_counter() - began)
    return 1000 * float(np.median(times))
