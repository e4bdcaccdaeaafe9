"""What is checked before training, when nothing has been changed yet."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_dynhp.keras_state.sharing import models_beside
from keras_dynhp.keras_state.strategy import strategy_of_cluster

__all__ = ["check_alone", "check_cluster", "check_optimizer", "check_strategy"]


def check_alone(model: keras.Model) -> None:
    """Refuse a model whose layers are part of another model, which would lose its weights.

    Raises:
        ValueError: some other living model shares a layer with it.
    """
    beside = models_beside(model)
    if beside:
        other, layer = beside[0]
        raise ValueError(
            f"Model {other!r} shares layer {layer!r} with {model.name!r}, whose layers give way to "
            f"smaller ones while it trains: {other!r} would be left without its weights. Delete "
            "it before `fit` and make it again from the trained model, or prune a copy: "
            "keras.models.clone_model(model), then set_weights(model.get_weights())."
        )


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


# Strategies with which Keras 3's own `fit` does not work: what it ends in, and the classes.
_REFUSED = {
    "MultiWorkerMirroredStrategy": (
        'ends in "unsupported type PerReplica" (https://github.com/keras-team/keras/issues/20585)',
        tf.distribute.MultiWorkerMirroredStrategy,
        tf.distribute.experimental.MultiWorkerMirroredStrategy,
    ),
    "ParameterServerStrategy": (
        'asks for "ClusterCoordinator.create_per_worker_dataset", which it does not use',
        tf.distribute.ParameterServerStrategy,
        tf.distribute.experimental.ParameterServerStrategy,
    ),
}


def check_cluster() -> None:
    """Refuse to be made where Keras's `fit` would fail before it has called any callback.

    Raises:
        ValueError: this process has joined others for `MultiWorkerMirroredStrategy` or
            `ParameterServerStrategy`.
    """
    name = strategy_of_cluster()
    if name is not None:
        raise ValueError(_refusal(name))


def check_strategy(model: keras.Model) -> None:
    """Refuse the distribution strategies with which Keras 3's own `fit` does not work.

    Raises:
        ValueError: for `MultiWorkerMirroredStrategy` and `ParameterServerStrategy`.
    """
    # Not the type's own name: TensorFlow calls the first CollectiveAllReduceStrategy.
    for name, (_, *kinds) in _REFUSED.items():
        if isinstance(model.distribute_strategy, tuple(kinds)):
            raise ValueError(_refusal(name))


def _refusal(name: str) -> str:
    return (
        f"Keras {keras.__version__}'s own fit does not work with {name}: it {_REFUSED[name][0]}. "
        "Use tf.distribute.MirroredStrategy on one machine."
    )
