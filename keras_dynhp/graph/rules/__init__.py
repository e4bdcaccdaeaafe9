"""One small rule per layer family; importing this package registers them all."""

from keras_dynhp.graph.rules import (  # noqa: F401
    activation,
    applications,
    attention,
    convolution,
    dense,
    einsum,
    elementwise,
    embedding,
    merging,
    normalization,
    pooling,
    preprocessing,
    recurrent,
    shaping,
    slicing,
    wrapping,
)
