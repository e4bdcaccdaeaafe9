"""How Keras hides positions from a softmax."""

import keras
import numpy as np
import pytest
from keras import layers as L

from keras_dynhp.keras_state.masking import hidden_by

X = np.random.default_rng(0).normal(size=(2, 4, 6)).astype("float32")


@pytest.mark.parametrize(
    "attend",
    [
        lambda: L.MultiHeadAttention(2, 3),
        lambda: L.MultiHeadAttention(2, 3, dropout=0.1),
        lambda: L.GroupQueryAttention(3, 2, 1),
        lambda: _alone(L.Attention()),
        lambda: _alone(L.AdditiveAttention()),
    ],
    ids=["product", "softmax", "grouped", "attention", "additive"],
)
def test_every_softmax_with_a_mask_asks_once(attend):
    layer = attend()
    expected = layer(X, X, use_causal_mask=True)
    asked = []

    def hide(kept, scores):
        asked.append(np.broadcast_to(kept, scores.shape).mean())
        return keras.ops.where(kept, scores, -1e9)

    with hidden_by(hide):
        made = layer(X, X, use_causal_mask=True)
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-6)
    assert asked == [10 / 16]  # the lower half of 4 by 4, with its diagonal
    np.testing.assert_allclose(layer(X, X, use_causal_mask=True), expected, rtol=1e-5, atol=1e-6)
    assert len(asked) == 1


def _alone(layer):
    return lambda x, y, **kwargs: layer([x, y], **kwargs)
