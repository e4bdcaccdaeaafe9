"""What the tests of the callbacks share."""

import pathlib
import sys

import keras
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))


@pytest.fixture(autouse=True)
def _same_number_types():
    yield
    keras.config.set_dtype_policy("float32")
