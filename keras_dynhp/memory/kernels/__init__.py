"""The kernels of every layer family: one small rule each."""

from keras_dynhp.memory.kernels import (
    convolution,
    dense,
    elementwise,
    normalization,
    pooling,
    shaping,
)
from keras_dynhp.memory.kernels.registry import write_call

__all__ = [
    "convolution",
    "dense",
    "elementwise",
    "normalization",
    "pooling",
    "shaping",
    "write_call",
]
