"""What a target may be made of."""

import re

import numpy as np
import pytest

from keras_dynhp import Target


@pytest.mark.parametrize("name", ["compression", "params", "macs"])
@pytest.mark.parametrize("value", ["10", [1]])
def test_what_is_no_number(name, value):
    said = re.escape(f"`{name}` must be a number. Received: {name}={value!r}")
    with pytest.raises(TypeError, match=said):
        Target(**{name: value})


@pytest.mark.parametrize("name", ["compression", "params", "macs"])
def test_a_limit_is_finite(name):
    with pytest.raises(ValueError, match=f"{name}.*finite"):
        Target(**{name: float("inf")})


@pytest.mark.parametrize("value", [np.int64(500), np.float32(2.5), 1e9])
def test_numbers_of_all_kinds(value):
    assert Target(compression=value, params=value).params == value
