"""Searching how hard to prune, with Keras Tuner."""

try:
    import keras_tuner  # noqa: F401
except ImportError as error:
    raise ImportError(
        'keras_dynhp.tuner needs Keras Tuner: pip install "keras-dynhp[tuner]".'
    ) from error

from keras_dynhp.tuner.hypermodel import PruningHyperModel
from keras_dynhp.tuner.pareto import ParetoFront

__all__ = ["ParetoFront", "PruningHyperModel"]
