"""The noise of the gradient, read from the optimizer's own running moments."""

from __future__ import annotations

import numpy as np

from keras_dynhp.keras_state.optimizer import optimizer_tree


def gradient_variance(optimizer, batch_size: int) -> float | None:
    """Trace of the covariance of one sample's gradient, in the metric of Adam's steps.

    Adam keeps running means m of the gradient and v of its square, so v - m^2 estimates the
    variance of a mini-batch's gradient, and `batch_size` times that a sample's. Each coordinate
    is divided by sqrt(v), as Adam divides its steps. No cost per step, no second backward pass.

    Args:
        optimizer: the optimizer in use.
        batch_size: of the steps that filled the moments.

    Returns:
        The trace, or None if no optimizer in use keeps both moments.
    """
    total = None
    for node in optimizer_tree(optimizer):
        means = getattr(node, "_momentums", None)
        squares = getattr(node, "_velocities", None)
        steps = int(node.iterations.numpy()) if node.built else 0
        if not means or not squares or not steps or not hasattr(node, "beta_2"):
            continue
        total = total or 0.0
        for mean, square in zip(means, squares):
            if mean is None or tuple(mean.shape) != tuple(square.shape):
                continue
            m = mean.numpy().astype(np.float64) / (1 - node.beta_1**steps)
            v = square.numpy().astype(np.float64) / (1 - node.beta_2**steps)
            noise = np.maximum(v - m * m, 0.0)
            total += float((noise / (np.sqrt(v) + node.epsilon)).sum())
    return None if total is None else batch_size * total
