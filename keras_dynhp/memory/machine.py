"""What of this machine, and of this build of TensorFlow, decides how much memory a step needs."""

from __future__ import annotations

import os
from dataclasses import dataclass

import tensorflow as tf


@dataclass(frozen=True)
class Machine:
    """Where a step runs.

    Args:
        threads: how many kernels may run at once.
        workers: how many threads one kernel is split over.
        onednn: whether TensorFlow replaces its convolution and pooling kernels by oneDNN's.
        gpu: whether the step runs on a GPU, whose kernels lay out no image columns.
        cache: bytes of the last-level cache, which the gradients of 3D convolutions fill.
    """

    threads: int = 2
    workers: int = 2
    onednn: bool = False
    gpu: bool = False
    cache: int = 32 << 20

    @classmethod
    def here(cls) -> Machine:
        """This machine, as TensorFlow is configured now."""
        gpu = bool(tf.config.list_logical_devices("GPU"))
        cores = os.cpu_count() or 1
        threading = tf.config.threading
        return cls(
            threads=1 if gpu else threading.get_inter_op_parallelism_threads() or cores,
            workers=threading.get_intra_op_parallelism_threads() or cores,
            onednn=not gpu and uses_onednn(),
            gpu=gpu,
            cache=last_level_cache(),
        )


def uses_onednn() -> bool:
    """Whether TensorFlow runs oneDNN kernels on this CPU.

    It decides by the processor (on with AVX512-VNNI, AMX and the like) and by the environment
    variable `TF_ENABLE_ONEDNN_OPTS`; the answer has no public name in Python. Where the private
    one is missing, False: the estimate is then the larger one.
    """
    try:
        from tensorflow.python.util import _pywrap_util_port
    except ImportError:
        return False
    return bool(_pywrap_util_port.IsMklEnabled())


def last_level_cache() -> int:
    """Bytes of the processor's last-level cache; 32 MB where the system does not say."""
    for name in ("SC_LEVEL3_CACHE_SIZE", "SC_LEVEL2_CACHE_SIZE"):
        if name in os.sysconf_names and os.sysconf(name) > 0:
            return os.sysconf(name)
    return 32 << 20
