"""What a neuron is worth."""

from keras_dynhp.criteria.criterion import Criterion, Magnitude, Random, Taylor, get

__all__ = ["Criterion", "Magnitude", "Random", "Taylor", "get"]
