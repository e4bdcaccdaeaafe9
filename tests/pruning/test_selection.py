"""Which neurons are chosen to go."""

import keras
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import keras_dynhp as dynhp
from keras_dynhp.pruning.resources import macs, parameters
from keras_dynhp.pruning.selection import Unreachable, select, smallest_widths

layers = keras.layers
MODEL = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        layers.Conv2D(12, 3, name="a"),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dense(20, name="b"),
        layers.Dense(7, name="c"),
        layers.Dense(3, name="out"),
    ]
)
GROUPS = dynhp.find_groups(MODEL)
SIZES = np.array([group.size for group in GROUPS])
RESOURCES = [parameters(GROUPS), macs(GROUPS)]


def widths(masks):
    return np.array([masks[group.name].sum() for group in GROUPS])


@st.composite
def scores(draw):
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([0.0, 1.0, 8.0]))
    return {
        group.name: np.exp(spread * random.normal(size=group.size) + spread * random.normal())
        for group in GROUPS
    }


shares = st.tuples(st.floats(0.02, 1.0), st.floats(0.02, 1.0))


def goals_of(fractions):
    full = [resource.value(SIZES) for resource in RESOURCES]
    return [(r, share * whole) for r, share, whole in zip(RESOURCES, fractions, full)]


def reachable(goals, round_to):
    least = smallest_widths(GROUPS, round_to)
    return all(resource.value(least) <= goal for resource, goal in goals)


@given(scores(), shares, st.sampled_from([1, 2, 4, 8]))
@settings(max_examples=60, deadline=None)
def test_goals_are_met_and_widths_are_allowed(values, fractions, round_to):
    goals = goals_of(fractions)
    if not reachable(goals, round_to):
        with pytest.raises(Unreachable, match="are left"):
            select(GROUPS, values, goals, round_to)
        return
    masks = select(GROUPS, values, goals, round_to)
    found = widths(masks)
    assert all(resource.value(found) <= goal for resource, goal in goals)
    assert (found >= smallest_widths(GROUPS, round_to)).all()
    assert all(w % round_to == 0 or w == size for w, size in zip(found, SIZES))


@given(scores(), shares)
@settings(max_examples=40, deadline=None)
def test_who_goes_is_worth_no_more_than_who_stays(values, fractions):
    goals = goals_of(fractions)
    assume(reachable(goals, 1))
    for name, mask in select(GROUPS, values, goals).items():
        if not mask.all():
            assert values[name][~mask].max() <= values[name][mask].min()


@given(scores(), st.floats(0.05, 1.0), st.floats(0.05, 1.0))
@settings(max_examples=40, deadline=None)
def test_a_lower_goal_keeps_no_neuron_that_a_higher_one_removes(values, one, other):
    low, high = sorted([one, other])
    less, more = (
        select(GROUPS, values, [(RESOURCES[0], share * RESOURCES[0].value(SIZES))])
        for share in (low, high)
    )
    for name in less:
        assert not (less[name] & ~more[name]).any()


def test_no_more_goes_than_has_to():
    values = {group.name: np.ones(group.size) for group in GROUPS}
    for share in (0.9, 0.5, 0.2):
        goal = share * RESOURCES[0].value(SIZES)
        found = widths(select(GROUPS, values, [(RESOURCES[0], goal)]))
        # One neuron back and the goal is missed, for the group that went last.
        more = [RESOURCES[0].value(found + np.eye(3, dtype=int)[i]) for i in range(3)]
        assert any(value > goal for value in more)


def test_score_per_cost_by_hand():
    model = keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(2, name="wide"),
            layers.Dense(2, name="narrow"),
            layers.Dense(1, name="out"),
        ]
    )
    groups = dynhp.find_groups(model)
    # A neuron of "wide" costs 10 + 1 + 2 = 13 parameters, one of "narrow" 2 + 1 + 1 = 4.
    goal = [(parameters(groups), model.count_params() - 1)]
    cheap = select(groups, {"wide": np.array([2.0, 9.0]), "narrow": np.array([1.0, 9.0])}, goal)
    assert not cheap["wide"][0] and cheap["narrow"].all()  # 2/13 < 1/4
    dear = select(groups, {"wide": np.array([4.0, 9.0]), "narrow": np.array([1.0, 9.0])}, goal)
    assert dear["wide"].all() and not dear["narrow"][0]  # 4/13 > 1/4


def test_who_is_left_is_worth_what_has_gone():
    model = keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(4, name="wide"),
            layers.Dense(4, name="narrow"),
            layers.Dense(1, name="out"),
        ]
    )
    groups = dynhp.find_groups(model)
    goal = [(parameters(groups), model.count_params() - 16)]  # a neuron of "wide" has 15
    scores = {"wide": np.ones(4), "narrow": np.array([0.42, 9.0, 9.0, 9.0])}
    # First 1/15 < 0.42/6, then 0.42/5, for "wide" is narrower, is less than (4/3)/15.
    masks = select(groups, scores, goal)
    assert masks["wide"].sum() == 3 and masks["narrow"].tolist() == [False, True, True, True]
    # A score below zero stays what it is, and what is worth nothing leaves nothing.
    scores = {"wide": np.array([0.0, 0.0, 0.0, 1.0]), "narrow": np.array([-1.0, 9.0, 9.0, 9.0])}
    masks = select(groups, scores, [(parameters(groups), 21)])
    assert masks["wide"].tolist() == [False, False, False, True]
    assert masks["narrow"].tolist() == [False, True, True, True]


def test_only_what_lowers_a_goal_goes():
    """MACs of the dense layers are few: a goal in MACs that the convolution can meet alone."""
    values = {"a": np.full(12, 1e-6), "b": np.ones(20), "c": np.ones(7)}
    masks = select(GROUPS, values, [(RESOURCES[1], 0.5 * RESOURCES[1].value(SIZES))])
    assert masks["b"].all() and masks["c"].all()


@given(scores(), scores(), shares)
@settings(max_examples=40, deadline=None)
def test_what_has_gone_stays_gone_whatever_its_score(values, later, fractions):
    low, high = sorted(fractions)
    goals = [[(r, share * r.value(SIZES)) for r in RESOURCES] for share in (high, low)]
    assume(reachable(goals[1], 1))
    first = select(GROUPS, values, goals[0])
    again = select(GROUPS, later, goals[0], masks=first)
    second = select(GROUPS, later, goals[1], masks=first)
    for name in first:
        assert (again[name] == first[name]).all()  # the goals are met already
        assert not (second[name] & ~first[name]).any()
    assert all(resource.value(widths(second)) <= goal for resource, goal in goals[1])
