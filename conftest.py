"""What all tests share, those in docstrings too."""

import functools
import gc
import sys
import typing

import pytest
from hypothesis import settings

# Property tests build networks: how long one takes says nothing on a busy machine.
settings.register_profile("networks", deadline=None)
settings.load_profile("networks")

# Each layer is some hundred objects; looking for garbage so often would take half of the time.
gc.set_threshold(20_000, 20, 20)

# TensorFlow asks for each value whether it is a tensor, which is a protocol: before Python 3.12
# that goes through the protocol's attributes anew each time, a tenth of all that is computed here.
if sys.version_info < (3, 12):
    typing._get_protocol_attrs = functools.lru_cache(None)(typing._get_protocol_attrs)


@pytest.fixture(autouse=True, scope="module")
def _no_old_objects_in_garbage_collection():
    """What TensorFlow, Keras and earlier tests are made of need not be looked through again."""
    gc.collect()
    gc.freeze()
