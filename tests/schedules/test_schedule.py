"""How far pruning has come as training goes."""

import keras
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_dynhp import schedules
from keras_dynhp.schedules.schedule import fraction

NAMES = ["cubic", "linear", "geometric", "constant"]
progress = st.floats(0, 1)


@pytest.mark.parametrize("name", NAMES)
@given(start=st.floats(0, 0.5), width=st.floats(0.01, 0.5), one=progress, other=progress)
def test_from_nothing_to_everything_and_never_back(name, start, width, one, other):
    schedule = type(schedules.get(name))(start, start + width)
    early, late = sorted([one, other])
    assert 0.0 <= schedule(early) <= schedule(late) <= 1.0 + 1e-12
    assert schedule(start + width) == 1.0
    if early < start:
        assert schedule(early) == 0.0


def test_values_by_hand():
    assert schedules.Cubic(0, 1)(0.5) == 0.875
    assert schedules.Linear(0.2, 0.6)(0.3) == 0.25
    assert schedules.Geometric(0, 1, ratio=0.25)(0.5) == pytest.approx((1 - 0.5) / (1 - 0.25))
    assert schedules.Constant(0.3, 0.4)(0.3) == 1.0


@pytest.mark.parametrize("start, end", [(0.5, 0.5), (0.6, 0.5), (-0.1, 0.5), (0.1, 1.1)])
def test_impossible_times_are_refused(start, end):
    with pytest.raises(ValueError, match="start"):
        schedules.Cubic(start, end)


@pytest.mark.parametrize("ratio", [0.0, 1.0, 2.0])
def test_impossible_ratio_is_refused(ratio):
    with pytest.raises(ValueError, match="ratio"):
        schedules.Geometric(ratio=ratio)


@pytest.mark.parametrize("name", NAMES)
def test_names_and_configurations(name):
    schedule = schedules.get(name)
    again = schedules.get(keras.saving.serialize_keras_object(schedule))
    assert type(again) is type(schedule) and again.get_config() == schedule.get_config()


def test_any_callable_is_a_schedule():
    assert fraction(schedules.get(lambda p: p * p), 0.5, 0) == 0.25
    with pytest.raises(ValueError, match="0, 1"):
        fraction(lambda p: 2.0, 0.5, 0)
    with pytest.raises(TypeError, match="callable"):
        schedules.get(3)
    with pytest.raises(ValueError, match="Unknown schedule"):
        schedules.get("cubical")


class Foreign:
    """Speaks as the pruning schedules of tensorflow-model-optimization do."""

    final_sparsity = 0.8

    def __call__(self, step):
        return True, 0.2 * float(step)


def test_foreign_schedules_are_asked_for_the_step():
    assert fraction(Foreign(), 0.9, 2) == pytest.approx(0.5)
