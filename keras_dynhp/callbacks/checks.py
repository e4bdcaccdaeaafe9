"""What is checked when `fit` begins, before anything is changed."""

from __future__ import annotations

import keras
import tensorflow as tf

__all__ = ["check_optimizer", "check_strategy"]


def check_optimizer(model: keras.Model) -> None:
    """Refuse an optimizer that Keras does not know.

    Raises:
        TypeError: `model.optimizer` is not a Keras optimizer.
    """
    optimizer = getattr(model, "optimizer", None)
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            "The model must be compiled with a keras.optimizers.Optimizer, whose state can follow "
            f"the network. Received: {optimizer!r} (of type {type(optimizer).__name__}). Subclass "
            "keras.optimizers.Optimizer, or use one of keras.optimizers."
        )


def check_strategy(model: keras.Model) -> None:
    """Refuse the distribution strategies with which Keras 3's own `fit` does not work.

    Raises:
        ValueError: for `MultiWorkerMirroredStrategy` and `ParameterServerStrategy`.
    """
    strategy = model.distribute_strategy
    refused = (
        tf.distribute.MultiWorkerMirroredStrategy,
        tf.distribute.ParameterServerStrategy,
        tf.distribute.experimental.MultiWorkerMirroredStrategy,
        tf.distribute.experimental.ParameterServerStrategy,
    )
    if isinstance(strategy, refused):
        raise ValueError(
            f"Keras {keras.__version__}'s own fit does not work with {type(strategy).__name__}: it "
            'ends in "unsupported type PerReplica" (https://github.com/keras-team/keras/issues/'
            "20585). Use tf.distribute.MirroredStrategy on one machine."
        )
