"""The kernels of every layer family: one small rule each."""

from keras_dynhp.memory.kernels import (
    attention,
    convolution,
    dense,
    elementwise,
    normalization,
    pooling,
    recurrent,
    shaping,
)
from keras_dynhp.memory.kernels.registry import write_call

__all__ = [
    "attention",
    "convolution",
    "dense",
    "elementwise",
    "normalization",
    "pooling",
    "recurrent",
    "shaping",
    "write_call",
]
