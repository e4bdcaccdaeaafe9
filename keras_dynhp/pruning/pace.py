"""Learning rates that grow as a network becomes smaller."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np

from keras_dynhp.graph.groups import ChannelGroups
from keras_dynhp.graph.normalized import normalized_kernels
from keras_dynhp.pruning.resources import group_axes

# How a variable's learning rate follows from how many times smaller it has become; and that of a
# kernel whose outputs are normalized.
POWER = 0.5
NORMALIZED_POWER = 1.0


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


def learning_rate_growth(groups: ChannelGroups, full: Mapping[str, float]) -> dict[int, float]:
    """For the id of each variable that has become smaller, by what its learning rate grows.

    An optimizer such as Adam moves every weight by about the learning rate, so the function that
    a layer computes moves less the fewer weights it has (compare the learning rates by width of
    Yang et al., arXiv 2203.03466): a rate that suited the full network is too small for the pruned
    one. The square root of how many times smaller a variable is suits most; for kernels whose
    outputs are normalized it is that number itself, as their scale, which steps that are too long
    would spoil, does not matter. Both are what the ablation favours.

    Args:
        groups: the channel groups as they are now.
        full: for each group's name, how many neurons it had before anything was pruned.
    """
    normalized = normalized_kernels(groups.trace.model)
    return {
        key: shrunk ** (NORMALIZED_POWER if key in normalized else POWER)
        for key, shrunk in shrinkage(groups, full).items()
    }


def learning_rate_factor(optimizer: keras.optimizers.Optimizer, growth: float) -> float:
    """What an optimizer multiplies its learning rate by, for a variable whose rate is to grow.

    SGD's steps are as large as its gradients, which grow by themselves when fewer weights share
    the work: its rate stays.

    Example:

    >>> import keras
    >>> learning_rate_factor(keras.optimizers.Adam(), 3.0)
    3.0
    >>> learning_rate_factor(keras.optimizers.SGD(), 3.0)
    1.0
    """
    return 1.0 if isinstance(optimizer, keras.optimizers.SGD) else growth
