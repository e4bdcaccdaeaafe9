"""The training batch: rules for its size, and changing it while `fit` runs."""

from keras_dynhp.batching.data import FitData
from keras_dynhp.batching.learning_rate import (
    BatchRates,
    RateFactor,
    SampleClock,
    scaled_learning_rate,
)
from keras_dynhp.batching.rules import CABS, BatchContext, BatchRule, Fixed, Memory, get
from keras_dynhp.batching.variance import gradient_variance, read_moments

__all__ = [
    "CABS",
    "BatchContext",
    "BatchRates",
    "BatchRule",
    "FitData",
    "Fixed",
    "Memory",
    "RateFactor",
    "SampleClock",
    "get",
    "gradient_variance",
    "read_moments",
    "scaled_learning_rate",
]
