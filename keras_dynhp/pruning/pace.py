"""Learning rates that grow as a network becomes smaller."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np

from keras_dynhp.graph.groups import ChannelGroups
from keras_dynhp.pruning.resources import group_axes

# How a variable's learning rate follows from how many times smaller it has become.
POWER = 0.5


def shrinkage(groups: ChannelGroups, full: Mapping[str, float]) -> dict[int, float]:
    """For the id of each variable that some group reaches, how many times smaller it has become.

    Args:
        groups: the channel groups as they are now.
        full: for each group's name, how many neurons it had before anything was pruned.
    """
    widths = [group.size for group in groups]
    before = [full[group.name] for group in groups]
    result = {}
    for key, axes in group_axes(groups).items():
        sizes = [
            [
                fixed + sum(n * size[group] for group, n in per_neuron.items())
                for size in (before, widths)
            ]
            for fixed, per_neuron in axes
        ]
        result[key] = float(np.prod([then / now for then, now in sizes]))
    return result


def learning_rate_factor(optimizer: keras.optimizers.Optimizer, shrunk: float) -> float:
    """What to multiply the learning rate of a variable by that is `shrunk` times smaller.

    An optimizer such as Adam moves every weight by about the learning rate, so the function that
    a layer computes moves less the fewer weights it has (compare the learning rates by width of
    Yang et al., arXiv 2203.03466): a rate that suited the full network is too small for the pruned
    one. The square root is what the ablation favours. SGD's steps are as large as its gradients,
    which grow by themselves when fewer weights share the work: its rate stays.

    Example:

    >>> import keras
    >>> learning_rate_factor(keras.optimizers.Adam(), 9.0)
    3.0
    >>> learning_rate_factor(keras.optimizers.SGD(), 9.0)
    1.0
    """
    if isinstance(optimizer, keras.optimizers.SGD):
        return 1.0
    return shrunk**POWER
