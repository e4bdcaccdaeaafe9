"""Private facts about how Keras hides positions from a softmax: by numbers such as -1e9."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import keras
from keras.src.backend.tensorflow import nn
from keras.src.layers import Attention, Softmax

__all__ = ["hidden_by"]


@contextlib.contextmanager
def hidden_by(hide: Callable) -> Iterator[None]:
    """Inside, what a softmax sees of scores with a mask is `hide(kept, scores)`.

    Args:
        hide: is given where scores are kept, booleans that broadcast to them, and the scores.
    """
    softmax, attention, product = Softmax.call, Attention._apply_scores, nn._apply_masks

    def in_softmax(self, inputs, mask=None):
        if mask is None:
            return softmax(self, inputs)
        kept = _boolean(mask)
        # Zero where the whole row is hidden, as in Keras.
        return keras.ops.where(kept, softmax(self, hide(kept, inputs)), 0.0)

    def in_attention(self, scores, value, scores_mask=None, training=False):
        if scores_mask is not None:
            kept = keras.ops.expand_dims(scores_mask, -2) if scores_mask.ndim == 2 else scores_mask
            scores = hide(kept, scores)
        return attention(self, scores, value, None, training)

    def in_product(logits, mask, is_causal):
        kept = [] if mask is None else [mask]
        if is_causal:
            length, width = logits.shape[-2:]
            kept.append(keras.ops.tril(keras.ops.ones((length, width), "bool")))
        return hide(kept[0] & kept[-1], logits) if kept else logits

    Softmax.call, Attention._apply_scores, nn._apply_masks = in_softmax, in_attention, in_product
    try:
        yield
    finally:
        Softmax.call, Attention._apply_scores, nn._apply_masks = softmax, attention, product


def _boolean(mask):
    return mask if keras.backend.standardize_dtype(mask.dtype) == "bool" else mask > 0.5
