"""What TensorFlow's own allocator says is in use."""

from __future__ import annotations

import functools
import os

import tensorflow as tf


def is_available() -> bool:
    """Whether the allocator of the training device counts all that is in use: a GPU's does.

    On a CPU TensorFlow counts everything only if the environment variable
    `TF_CPU_ALLOCATOR_USE_BFC=1` was set before it was imported. Without it some builds report
    nothing, and others large tensors only, which is worse.
    """
    return _counts(device())


@functools.cache
def _counts(name: str) -> bool:
    try:
        before = tf.config.experimental.get_memory_info(name)["current"]
        with tf.device(name):
            small = tf.random.uniform((256,))
        after = tf.config.experimental.get_memory_info(name)["current"]
    except ValueError:
        return False
    return after - before >= small.numpy().nbytes


def device() -> str:
    """The device whose allocator is asked: the first GPU, or else the CPU.

    >>> device() in ("CPU:0", "GPU:0")
    True
    """
    return "GPU:0" if tf.config.list_logical_devices("GPU") else "CPU:0"


def current_bytes() -> int:
    """Bytes in use now: all tensors of the process on that device, the input pipeline's too.

    Raises:
        RuntimeError: where the allocator does not report (see `is_available`).
    """
    return _info()["current"]


def peak_bytes() -> int:
    """The most bytes in use at once since the process began, or since `reset_peak()`.

    Raises:
        RuntimeError: where the allocator does not report (see `is_available`).
    """
    return _info()["peak"]


def hard_limit() -> int | None:
    """Bytes past which the allocator of the training device raises; None where none is set.

    For a CPU that is the environment variable `TF_CPU_BFC_MEM_LIMIT_IN_MB`, for a GPU the memory
    limit of its logical device.
    """
    kind, _ = device().split(":")
    if kind == "GPU":
        physical = tf.config.list_physical_devices("GPU")[0]
        logical = tf.config.get_logical_device_configuration(physical)
        limit = logical[0].memory_limit if logical else None
    else:
        limit = int(os.environ.get("TF_CPU_BFC_MEM_LIMIT_IN_MB", 0)) if is_available() else None
    return int(limit) << 20 if limit else None


def reset_peak() -> None:
    """Let the peak count anew from what is in use now.

    Raises:
        RuntimeError: where the allocator does not report (see `is_available`).
    """
    _info()
    tf.config.experimental.reset_memory_stats(device())


def _info() -> dict[str, int]:
    name = device()
    if not _counts(name):
        raise RuntimeError(
            f"TensorFlow's allocator of {name} does not report all that is in use. Set the "
            "environment variable TF_CPU_ALLOCATOR_USE_BFC=1 before TensorFlow is imported, or "
            "ask memory.measure.is_available() first."
        )
    return tf.config.experimental.get_memory_info(name)
