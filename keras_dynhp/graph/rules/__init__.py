"""One small rule per layer family; importing this package registers them all."""

from keras_dynhp.graph.rules import (  # noqa: F401
    convolution,
    dense,
    elementwise,
    merging,
    normalization,
    pooling,
    shaping,
    slicing,
)
