"""The budget: what it allows before and after measurements, and what it says when nothing fits."""

import json

import keras
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers as L

from keras_dynhp.errors import BudgetError
from keras_dynhp.memory import Budget, MemoryEstimate, estimate_memory
from keras_dynhp.memory.budget import MARGIN, PIPELINE_BATCHES
from keras_dynhp.memory.estimate import largest_that


def step(batch: int, fixed: int = 1_000_000, each: int = 50_000, image: int = 3_000):
    """An estimate that is a straight line."""
    return MemoryEstimate(fixed // 4, fixed // 4, fixed // 2, each * batch, image * batch, 0)


def largest(budget: Budget, maximum: int = 10**6) -> int:
    return largest_that(lambda batch: budget.predict(step(batch)) <= budget.limit, maximum)


def model(width: int = 300):
    built = keras.Sequential([keras.Input((784,)), L.Dense(width, "relu"), L.Dense(10)])
    built.compile("adam", "sparse_categorical_crossentropy")
    return built


def test_before_anything_is_measured_the_estimate_counts_with_a_margin():
    budget = Budget("64MB")
    assert budget.limit == 64 * 2**20
    batch = largest(budget)
    assert 0.7 * budget.limit < step(batch).total < budget.limit


def test_a_peak_above_the_estimate_counts_at_once_and_fades_slowly():
    budget = Budget("64MB")
    before = budget.predict(step(100))
    over = step(100).total + 10 * step(100).inputs
    budget.observe(step(100), over)
    after = budget.predict(step(100))
    assert after > before and after > over
    budget.observe(step(100), step(100).total)
    assert before < budget.predict(step(100)) < after


def test_without_a_pipeline_the_step_itself_takes_more():
    """What a tiny batch exceeded its estimate by isn't taken for hundreds of waiting batches."""
    budget, piped = Budget("64MB", pipeline=False), Budget("64MB")
    for each in (budget, piped):
        each.observe(step(1), int(1.3 * step(1).total))
    assert piped.predict(step(100)) > 3 * budget.predict(step(100))
    for _ in range(5):
        budget.observe(step(1), step(1).total)
    assert budget.predict(step(100)) == pytest.approx(
        MARGIN * (1.3 * step(100).total + PIPELINE_BATCHES * step(100).inputs), rel=1e-6
    )
    # The unluckiest of the last ten rounds counts, and then no longer.
    for _ in range(10):
        budget.observe(step(1), step(1).total)
    assert budget.predict(step(100)) == pytest.approx(
        MARGIN * (step(100).total + PIPELINE_BATCHES * step(100).inputs), rel=1e-6
    )
    again = Budget("64MB", pipeline=False)
    again.set_state(json.loads(json.dumps(budget.get_state())))
    assert again.predict(step(50)) == budget.predict(step(50))


def test_a_peak_far_under_the_estimate_is_not_carried_to_much_larger_steps():
    budget = Budget("64MB")
    budget.pipeline_batches = 0.0
    budget.observe(step(100), step(100).total // 2)
    near, far = step(150), step(1000)
    assert step(150).total // 2 < budget.predict(near) < near.total
    assert budget.predict(far) > far.total


def test_that_few_small_batches_waited_says_little_about_large_ones():
    """Until they have been measured, as many are reckoned with as at first."""
    budget, fresh = Budget("64MB"), Budget("64MB")
    for _ in range(9):
        budget.observe(step(100), step(100).total)
    assert budget.predict(step(200)) < fresh.predict(step(200))
    assert budget.predict(step(201)) == fresh.predict(step(201))
    budget.observe(step(201), step(201).total)
    assert budget.predict(step(402)) < fresh.predict(step(402))


def test_one_lucky_epoch_does_not_count_against_unlucky_ones():
    budget = Budget("64MB")
    for measured in (0.95, 0.4):
        budget.observe(step(100), int(measured * step(100).total))
    assert budget.predict(step(100)) > step(100).total


@given(
    truth=st.floats(0.4, 1.3),
    pipeline=st.floats(0.0, 3.0),
    luck=st.lists(st.floats(0.93, 1.0), min_size=12, max_size=12),
    limit=st.integers(4, 400),
)
def test_growing_into_the_budget_never_exceeds_it_and_ends_near_it(truth, pipeline, luck, limit):
    """The truth is some part of the estimate, luck aside; batches double at most, as rules do."""
    budget = Budget(limit * 2**20)
    truth = min(truth, 1.05)  # an estimate is never more than 5% under

    def peak(batch, fortune):
        return int(fortune * truth * step(batch).total + pipeline * step(batch).inputs)

    batch = min(8, largest(budget))
    if not batch:
        return
    for fortune in luck:
        assert peak(batch, 1.0) <= budget.limit
        budget.observe(step(batch), peak(batch, fortune))
        batch = min(2 * batch, largest(budget))
    while batch < largest(budget):
        budget.observe(step(batch), peak(batch, 1.0))
        batch = min(2 * batch, largest(budget))
        assert peak(batch, 1.0) <= budget.limit
    # No batch is too small to matter here: one sample is under 2% of the budget.
    if largest(budget) > 50:
        assert peak(batch, 1.0) > 0.65 * budget.limit


def test_state_survives_a_restart():
    budget = Budget("8MB")
    for measured in (3_000_000, 9_000_000):
        budget.observe(step(40), measured)
    resumed = Budget("8MB")
    resumed.set_state(json.loads(json.dumps(budget.get_state())))
    for batch in (1, 40, 100, 5000):
        assert resumed.predict(step(batch)) == budget.predict(step(batch))


def test_the_largest_batch_of_a_model():
    built = model()
    budget = Budget("10MB")
    batch = budget.largest_batch(built, built.optimizer)
    assert budget.predict(estimate_memory(built, batch)) <= budget.limit
    assert budget.predict(estimate_memory(built, batch + 1)) > budget.limit
    assert budget.largest_batch(built, built.optimizer, maximum=5) == 5


def test_what_cannot_fit_is_refused_with_the_numbers():
    built = model()
    with pytest.raises(BudgetError) as error:
        Budget("1MB").check(built)
    assert isinstance(error.value, ValueError)
    needed, given_bytes = error.value.needed, error.value.given
    assert given_bytes == 2**20 < needed
    for told in (str(needed), str(given_bytes), "1.0 MB", built.name, "optimizer"):
        assert told in str(error.value)
    # What it says would fit does fit.
    Budget(needed).check(built)
    assert Budget(needed).largest_batch(built) >= 1
    with pytest.raises(BudgetError):
        Budget(needed - 1).check(built)


def test_a_smallest_batch_can_be_demanded():
    built = model()
    Budget("10MB").check(built, smallest=8)
    with pytest.raises(BudgetError, match="a batch of 8000 "):
        Budget("10MB").check(built, smallest=8000)


@pytest.mark.parametrize("limit", [0, -5, "much", None, 2.5])
def test_bad_limits_are_refused(limit):
    with pytest.raises(ValueError, match="Received"):
        Budget(limit)
