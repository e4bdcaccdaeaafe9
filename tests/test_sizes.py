"""Sizes in bytes, as people write them."""

import numpy as np
import pytest

from keras_dynhp.sizes import format_size, parse_size


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (1, 1),
        (4096, 4096),
        ("512", 512),
        ("512B", 512),
        ("512KB", 512 * 1024),
        ("512kb", 512 * 1024),
        ("4MB", 4 * 1024**2),
        (" 1.5 MB ", 3 * 2**19),
        ("2g", 2 * 1024**3),
        (np.int64(7), 7),
    ],
)
def test_sizes_are_read(written, size):
    assert parse_size(written) == size
    assert type(parse_size(written)) is int


@pytest.mark.parametrize(
    "written",
    [0, -1, True, 4.0, None, "", "MB", "4 bytes", "4MiB", "-4MB", "0.1B", "1e3", "4,5MB", [4]],
)
def test_other_things_are_refused_with_what_was_received(written):
    with pytest.raises(ValueError, match="Received") as error:
        parse_size(written)
    assert repr(written) in str(error.value)
    assert "512KB" in str(error.value)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KB"), (3 * 2**19, "1.5 MB"), (5 * 2**30, "5.0 GB")],
)
def test_sizes_are_written(size, text):
    assert format_size(size) == text
