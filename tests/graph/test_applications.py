"""A fast part of `python -m benchmarks.applications`, which checks them all."""

from __future__ import annotations

import csv

import pytest

from benchmarks.applications import (
    COLUMNS,
    README,
    RESULTS,
    build,
    constructors,
    measure,
    read,
    readme_block,
    write_readme,
)
from keras_dynhp import find_groups

FAST = ["MobileNetV3Small", "VGG16"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAST)
def test_exact(name):
    row = measure(name, True)
    assert float(row["error_float64"]) <= 1e-9
    assert float(row["error_float32"]) <= 1e-3
    assert row["saved_and_loaded"] == "same"
    assert row["int8_bytes"] == "" or row["int8_bytes"] > 0
    assert row["prunable_share"] >= 0.9
    assert row["parameters_half_masked"] < 0.7 * row["parameters"]


@pytest.mark.parametrize("name", ["ResNet50", "ConvNeXtTiny", "InceptionResNetV2"])
def test_followed(name):
    groups = find_groups(build(name))
    assert groups.prunable_share >= 0.9
    assert all("no rule" not in reason for reason in groups.barriers.values())


def test_the_table_holds_what_is_promised():
    rows = list(csv.DictReader((RESULTS / "applications.csv").open()))
    assert list(rows[0]) == COLUMNS
    assert {row["model"] for row in rows} <= set(constructors())
    for row in rows:
        assert float(row["error_float64"]) <= 1e-9, row["model"]
        # Rounding and nothing else: float32's is 2**29 times as large.
        rounding = 2**29 * max(float(row["error_float64"]), 2**-53)
        assert float(row["error_float32"] or 0.0) <= 20 * rounding, row["model"]
        assert row["saved_and_loaded"] == ("same" if row["top"] == "yes" else ""), row["model"]
        assert float(row["prunable_share"]) >= 0.9, row["model"]
        assert int(row["parameters_half_masked"]) < int(row["parameters"]), row["model"]


def test_the_readme_holds_the_table(tmp_path):
    """As the command writes it; writing it again changes nothing."""
    rows = read(RESULTS / "applications.csv")
    assert readme_block(rows) in README.read_text(encoding="utf-8")
    page = tmp_path / "README.md"
    page.write_text(README.read_text(encoding="utf-8"), encoding="utf-8")
    write_readme(rows, page)
    assert page.read_text(encoding="utf-8") == README.read_text(encoding="utf-8")
