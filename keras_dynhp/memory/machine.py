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
        onednn: whether TensorFlow replaces its convolution and pooling kernels by oneDNN's.
        gpu: whether the step runs on a GPU, whose kernels lay out no image columns.
    """

    threads: int = 2
    onednn: bool = False
    gpu: bool = False

    @classmethod
    def here(cls) -> Machine:
        """This machine, as TensorFlow is configured now."""
        gpu = bool(tf.config.list_logical_devices("GPU"))
        threads = tf.config.threading.get_inter_op_parallelism_threads() or os.cpu_count() or 1
        return cls(1 if gpu else threads, not gpu and uses_onednn(), gpu)


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
