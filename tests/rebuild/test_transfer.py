from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_dynhp.rebuild.transfer import Transfer, take


def variable(*shape):
    return keras.Variable(np.arange(np.prod(shape), dtype="float32").reshape(shape), name="kernel")


def test_take_cuts_every_axis_and_keeps_the_order():
    transfer = Transfer(variable(3, 4), variable(2, 2), {0: np.array([2, 0]), 1: np.array([1, 3])})
    np.testing.assert_array_equal(transfer.take(transfer.old.numpy()), [[9, 11], [1, 3]])
    np.testing.assert_array_equal(take(np.arange(3), {}), [0, 1, 2])


@pytest.mark.parametrize(
    ("keep", "whole"),
    [({}, True), ({0: [0, 1, 2]}, True), ({0: [0, 2, 1]}, False), ({0: [0, 2]}, False)],
)
def test_whole_is_when_no_number_goes_or_moves(keep, whole):
    keep = {axis: np.array(indices) for axis, indices in keep.items()}
    rows = len(keep.get(0, range(3)))
    assert Transfer(variable(3, 4), variable(rows, 4), keep).whole is whole


@pytest.mark.parametrize(
    ("keep", "says"),
    [
        ({2: [0]}, "axes 0 to 1; received .* axis 2"),
        ({-1: [0]}, "axis -1"),
        ({1: [0, 4]}, "from 0 to 3"),
        ({1: [0, 0]}, "distinct"),
        ({1: [0.0, 1.0]}, "integers"),
        ({1: [[0, 1]]}, "one-dimensional"),
        ({1: [0, 1, 2]}, r"gives shape \(3, 3\), but its successor 'kernel' has shape \(3, 2\)"),
    ],
)
def test_what_does_not_fit_is_refused(keep, says):
    keep = {axis: np.array(indices) for axis, indices in keep.items()}
    with pytest.raises(ValueError, match=says):
        Transfer(variable(3, 4), variable(3, 2), keep)
