"""Convolutions that training on a CPU must not give to TensorFlow as they are.

oneDNN, whose kernels TensorFlow has on x86, writes outside its memory where it computes the
gradient of a kernel of size 1 with strides, whose input has fewer channels than fit in a register
(16 with AVX-512, 8 with AVX2): https://github.com/uxlfoundation/oneDNN/issues/6035, seen with
TensorFlow 2.21. The process crashes at once, or later. Such layers are the shortcuts of every
ResNet, and pruning makes their inputs narrow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import keras

__all__ = ["differentiated", "is_training", "picks_first", "sidestep_strided_kernels"]

LAYERS = (keras.layers.Conv1D, keras.layers.Conv2D)
SAFE_CHANNELS = 16
_differentiated: ContextVar[bool] = ContextVar("differentiated", default=False)


def sidestep_strided_kernels(model: keras.Model) -> None:
    """Let convolutions of size 1 with strides pick what they read first, then convolve all of it.

    They compute the same numbers and the same gradients, by other kernels. Only while training
    (or where `differentiated` says that there will be gradients, too), and only where the input
    has fewer than 16 channels: everything else, files and exports among it, knows nothing of it.
    It stays on the layers, for who goes on training them.

    Args:
        model: whose layers to change, also those inside layers and models.

    Example:

    >>> shortcut = keras.layers.Conv2D(8, 1, strides=2)
    >>> model = keras.Sequential([keras.Input((7, 7, 3)), shortcut])
    >>> sidestep_strided_kernels(model)
    >>> model(keras.ops.ones((1, 7, 7, 3)), training=True).shape, shortcut.strides
    (TensorShape([1, 4, 4, 8]), (2, 2))
    """
    for layer in model._flatten_layers():
        if _has_strided_kernel(layer) and not hasattr(layer.call, "picks_first"):
            _pick_first(layer)


def picks_first(layer: keras.layers.Layer) -> bool:
    """Whether a layer, as wide as it is now, picks what it reads first when it is trained."""
    return _has_strided_kernel(layer) and layer.kernel.shape[-2] < SAFE_CHANNELS


@contextlib.contextmanager
def differentiated() -> Iterator[None]:
    """Calls in here are differentiated, though not to train: of the inference form."""
    token = _differentiated.set(True)
    try:
        yield
    finally:
        _differentiated.reset(token)


def is_training(layer: keras.layers.Layer) -> bool:
    """Within a layer's call: whether it is called to be trained."""
    return bool(getattr(layer._get_call_context(), "training", None))


def _has_strided_kernel(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, LAYERS) and max(layer.kernel_size) == 1 < max(layer.strides)


def _pick_first(layer: keras.layers.Layer) -> None:
    call = layer.call

    def picking(inputs, *args, **kwargs):
        if not (picks_first(layer) and (is_training(layer) or _differentiated.get())):
            return call(inputs, *args, **kwargs)
        strides = layer.strides
        picked = [slice(None, None, stride) for stride in strides]
        channels = [slice(None)]
        last = layer.data_format == "channels_last"
        where = (slice(None), *(picked + channels if last else channels + picked))
        layer.strides = (1,) * len(strides)
        try:
            return call(inputs[where], *args, **kwargs)
        finally:
            layer.strides = strides

    picking.picks_first = True
    vars(layer)["call"] = picking  # past __setattr__, which would track it
