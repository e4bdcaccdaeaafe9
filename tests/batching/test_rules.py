"""Batch rules: what they ask for, and the limits that hold for all of them."""

import dataclasses
import math

import keras
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_dynhp.batching import rules
from keras_dynhp.batching.rules import CABS, BatchContext, BatchRule, Fixed, Memory

CONTEXT = BatchContext(
    current=64,
    requested=32,
    largest=1000,
    num_samples=60_000,
    loss=0.5,
    learning_rate=0.001,
    variance=50_000.0,
)


def changed(**values):
    return dataclasses.replace(CONTEXT, **values)


def test_cabs_is_rate_times_variance_over_loss():
    assert CABS()(CONTEXT) == int(0.001 * 50_000 / 0.5)


def test_cabs_is_smoothed_over_epochs():
    rule = CABS(smoothing=0.75)
    assert rule(CONTEXT) == 100
    assert rule(changed(variance=70_000.0)) == int(0.75 * 100 + 0.25 * 140)


def test_cabs_without_variance_grows_as_the_loss_falls():
    rule = CABS(smoothing=0.0)
    assert rule(changed(variance=None, current=32)) == 32
    assert rule(changed(variance=None, loss=0.5 / 9)) == 96


@pytest.mark.parametrize("loss", [0.0, -1.0, math.nan, math.inf])
def test_cabs_stays_where_the_loss_says_nothing(loss):
    rule = CABS()
    assert rule(changed(loss=loss)) == 64
    assert rule(CONTEXT) == 100  # and has learned nothing from it


def test_fixed_is_what_was_requested_or_what_fits():
    assert Fixed()(CONTEXT) == 32
    assert Fixed()(changed(largest=10, current=10)) == 10
    assert Fixed()(changed(largest=None, current=8)) == 32  # at once, as soon as it fits again


def test_memory_is_all_that_fits_and_no_more_than_there_is():
    assert Memory()(CONTEXT) == 1000
    assert Memory()(changed(num_samples=700)) == 700
    assert Memory()(changed(largest=None)) == 32


@given(
    current=st.integers(1, 5000),
    requested=st.integers(1, 500),
    largest=st.none() | st.integers(1, 5000),
    num_samples=st.none() | st.integers(1, 100_000),
    wanted=st.floats(-1e6, 1e6),
)
def test_limits_that_hold_whatever_a_rule_proposes(
    current, requested, largest, num_samples, wanted
):
    class Any(BatchRule):
        def propose(self, context):
            return wanted

    context = changed(
        current=current, requested=requested, largest=largest, num_samples=num_samples
    )
    size = Any()(context)
    assert isinstance(size, int) and size >= 1
    assert largest is None or size <= largest
    assert size <= max(2 * current, requested)
    if num_samples is not None:
        assert size <= max(requested, num_samples / 300)
    free = max(requested, (num_samples or 1e9) // 300)
    room = min(free, largest or 1e9)
    assert size >= min(max(requested, current // 2), room)


def test_cabs_does_not_shrink_where_the_rate_falls_but_where_memory_does():
    rule = CABS(smoothing=0.0)
    assert rule(changed(current=128, learning_rate=1e-9)) == 128
    assert rule(changed(current=128, learning_rate=1e-9, largest=70)) == 70


@pytest.mark.parametrize("wanted", [math.nan, math.inf])
def test_proposals_must_be_finite(wanted):
    class Bad(BatchRule):
        def propose(self, context):
            return wanted

    with pytest.raises(ValueError, match=r"Bad.propose\(\) must return a finite"):
        Bad()(CONTEXT)


@pytest.mark.parametrize("options", [{"learning_rate": "cubic"}, {"smoothing": 1.0}])
def test_bad_arguments(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        CABS(**options)


@pytest.mark.parametrize(
    ("name", "kind"), [("fixed", Fixed), ("memory", Memory), ("cabs", CABS), ("dynamic", CABS)]
)
def test_names(name, kind):
    assert type(rules.get(name)) is kind


def test_get():
    rule = CABS(smoothing=0.25, learning_rate="sqrt")
    assert rules.get(rule) is rule
    again = rules.get(keras.saving.serialize_keras_object(rule))
    assert again.get_config() == rule.get_config() == {"smoothing": 0.25, "learning_rate": "sqrt"}
    with pytest.raises(ValueError, match="Unknown batch rule 'large'"):
        rules.get("large")
    with pytest.raises(TypeError, match="Received: 32"):
        rules.get(32)


def test_a_resumed_rule_goes_on_where_it_was():
    rule, resumed = CABS(), CABS()
    rule(CONTEXT)
    rule(changed(variance=80_000.0))
    resumed.set_state(rule.get_state())
    assert resumed(changed(loss=0.6)) == rule(changed(loss=0.6))
