"""Choosing which neurons go: the least score for what they cost, until the goals are met."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

import numpy as np

from keras_dynhp.graph.groups import ChannelGroups
from keras_dynhp.pruning.resources import Resource

# Costs per neuron are brought up to date each time this share of the neurons has gone.
REFRESH = 0.01


class Unreachable(ValueError):
    """No choice of neurons meets the goals."""


def smallest_widths(groups: ChannelGroups, round_to: int = 1) -> np.ndarray:
    """The widths below which no group may fall: one neuron, or the kernels' granule."""
    return np.array([min(group.size, round_to) for group in groups], np.int64)


def select(
    groups: ChannelGroups,
    scores: Mapping[str, np.ndarray],
    goals: Sequence[tuple[Resource, float]],
    round_to: int = 1,
    masks: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Masks of the neurons that stay, true for each, such that every goal is met.

    Neurons go in the order of score per cost, where a neuron's cost is what it adds to the
    resources that are still above their goals, each relative to how far it has to fall, and its
    score grows as others of its group go, who leave it what they were worth: scores taken while a
    layer is full are not to empty it (after LAMP, Lee et al. 2021, arXiv 2010.07611, there for
    magnitudes of single weights). They go in blocks that keep widths at multiples of `round_to`.

    Args:
        groups: the model's channel groups.
        scores: for each group's name, an array of shape `(size,)`, higher worth more.
        goals: pairs of a resource and the most it may be.
        round_to: widths end at multiples of this where the group is as wide.
        masks: false for neurons that have gone already, for which scores mean nothing.

    Raises:
        Unreachable: with the smallest value that can be reached.
    """
    sizes = np.array([group.size for group in groups], np.int64)
    least = smallest_widths(groups, round_to)
    for resource, goal in goals:
        floor = resource.value(least)
        if floor > goal:
            raise Unreachable(
                f"{resource.name} can't fall to {goal:,.0f}: with every group at its smallest, "
                f"{floor:,.0f} are left. Ask for at least that, or print find_groups(model) to see "
                "what can't be pruned and why."
            )
    if masks is None:
        masks = {group.name: np.ones(group.size, bool) for group in groups}
    order = [np.lexsort((scores[group.name], masks[group.name])) for group in groups]
    known = {name: np.where(mask, scores[name], 0.0) for name, mask in masks.items()}
    worth = [_when_next(known[group.name][o]) for group, o in zip(groups, order)]
    ranked = [np.concatenate([[0.0], np.cumsum(one)]) for one in worth]
    widths = np.array([masks[group.name].sum() for group in groups], np.int64)
    full = {id(resource): resource.value(sizes) for resource, _ in goals}
    while not _met(goals, widths):
        cost = _cost(goals, widths, full)
        heap = [
            entry
            for number in range(len(sizes))
            if (entry := _next(number, sizes, widths, least, ranked, cost, round_to)) is not None
        ]
        if not heap:
            raise Unreachable("The goals can't be met with neurons of some cost left to remove.")
        heapq.heapify(heap)
        budget = max(1, int(REFRESH * widths.sum()))
        while heap and budget > 0 and not _met(goals, widths):
            _, number, block = heapq.heappop(heap)
            widths[number] -= block
            budget -= block
            entry = _next(number, sizes, widths, least, ranked, cost, round_to)
            if entry is not None:
                heapq.heappush(heap, entry)
    masks = {}
    for number, group in enumerate(groups):
        mask = np.ones(group.size, bool)
        mask[order[number][: sizes[number] - widths[number]]] = False
        masks[group.name] = mask
    return masks


def _when_next(scores: np.ndarray) -> np.ndarray:
    """What each neuron is worth when all before it have gone, of a group's scores in their order.

    Scores are of the network as it is, and say little of the last neurons of a layer. What all of
    the group are worth is taken to stay, shared by those that are left in proportion.
    """
    left = np.cumsum(np.maximum(scores, 0.0)[::-1])[::-1]
    shared = scores * left[0] / np.where(left > 0, left, 1.0)
    return np.where(scores > 0, shared, scores)


def _met(goals, widths) -> bool:
    return all(resource.value(widths) <= goal for resource, goal in goals)


def _cost(goals, widths, full) -> np.ndarray:
    cost = np.zeros(len(widths))
    for resource, goal in goals:
        excess = resource.value(widths) - goal
        if excess > 0:
            cost += resource.per_neuron(widths) / max(full[id(resource)] - goal, 1.0)
    return cost


def _next(number, sizes, widths, least, ranked, cost, round_to):
    """(score per cost, group, how many) of the next block of a group, None if none may go."""
    width = int(widths[number])
    block = width % round_to or round_to
    if width - block < least[number] or cost[number] <= 0:
        return None
    gone = int(sizes[number]) - width
    score = ranked[number][gone + block] - ranked[number][gone]
    return float(score / (cost[number] * block)), number, block
