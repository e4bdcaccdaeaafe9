"""What a target that is out of reach is answered with."""

import re

import keras
import pytest

import keras_dynhp as dynhp
from keras_dynhp.pruning.goals import _least_limit


@pytest.mark.parametrize("name", ["flash", "ram", "params", "macs"])
def test_the_advised_target_can_be_reached(name):
    layers = [keras.layers.Conv2D(8, 3), keras.layers.Flatten(), keras.layers.Dense(8)]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="smallest reachable target") as caught:
        dynhp.prune(model, dynhp.Target(**{name: 20}))
    assert " to 20, and with" in str(caught.value)
    assert ("estimate" in str(caught.value)) is (name in ("flash", "ram"))
    least = int(re.search(rf"{name}=(\d+)\.$", str(caught.value)).group(1))
    dynhp.prune(model, dynhp.Target(**{name: least}))
    with pytest.raises(ValueError, match=f"{name}={least}"):
        dynhp.prune(model, dynhp.Target(**{name: least - 1}))


def test_the_least_limit_is_enough_however_division_rounds():
    for floor in range(1, 3000):
        for safety in (0.97, 0.95, 1.0):
            limit = _least_limit(floor, safety)
            assert safety * limit >= floor > safety * (limit - 1) - 1e-9
