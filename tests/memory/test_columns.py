"""Image columns against what TensorFlow's log says its kernels allocated."""

import pytest

from keras_dynhp.memory.kernels.columns import Geometry
from keras_dynhp.memory.machine import Machine

TWO_CORES = Machine(workers=2)


@pytest.mark.parametrize(
    ("positions", "taps", "out", "seen"),
    [
        (24 * 24, 25, 20, 17_164_800),  # LeNet-5's first convolution
        (8 * 8, 25 * 20, 50, 16_768_000),  # its second
        (32 * 32, 9 * 3, 16, None),
    ],
)
def test_columns_of_the_filter_gradient_do_not_depend_on_the_batch(positions, taps, out, seen):
    geometry = Geometry(positions, taps, out, inputs=28 * 28, width=4)
    columns = {geometry.for_filter(TWO_CORES, batch) for batch in (1, 32, 512)}
    assert len(columns) == 1
    if seen is not None:
        assert columns == {seen}


def test_large_images_go_one_at_a_time_through_the_input_gradient():
    small = Geometry(8 * 8, 25 * 20, 50, inputs=12 * 12 * 20, width=4)
    assert small.for_input(TWO_CORES, 32) == small.for_filter(TWO_CORES, 32) == 16_768_000
    assert small.for_input(TWO_CORES, 1) == 8 * 8 * 25 * 20 * 4
    large = Geometry(32 * 32, 9 * 64, 64, inputs=32 * 32 * 64, width=4)
    assert large.for_input(TWO_CORES, 32) == 32 * 32 * 9 * 64 * 4
    # Split over many threads, one image is not enough work for each.
    assert large.for_input(Machine(workers=64), 32) > large.for_input(TWO_CORES, 32)


def test_volumes_fill_the_processors_own_cache_unless_that_is_out_of_proportion():
    volume = Geometry(8**3, 27 * 16, 16, inputs=8**3 * 16, width=4, volume=True)
    assert volume.for_filter(Machine(cache=8 << 20), 64) > 8 << 19
    assert volume.for_filter(Machine(cache=16 << 20), 64) > volume.for_filter(
        Machine(cache=8 << 20), 64
    )
    assert volume.for_filter(Machine(cache=64 << 20), 1) == 0
