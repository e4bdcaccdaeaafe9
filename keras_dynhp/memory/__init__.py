"""Training memory: estimated from the graph, measured by the allocator, kept inside a budget."""

from keras_dynhp.memory import measure
from keras_dynhp.memory.budget import Budget
from keras_dynhp.memory.estimate import MemoryEstimate, estimate_memory, largest_batch

__all__ = ["Budget", "MemoryEstimate", "estimate_memory", "largest_batch", "measure"]
