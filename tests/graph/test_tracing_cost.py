"""Tracing and planning cost time linear in the model; benchmarks/tracing_cost.py plots it."""

from __future__ import annotations

import csv

import pytest

from benchmarks.tracing_cost import RESULTS, measure, stacked


@pytest.mark.parametrize(
    ("small", "large"), [((10, 8), (80, 8)), ((2, 64), (2, 512))], ids=["deeper", "wider"]
)
def test_eight_times_the_model_costs_no_more_than_eight_times_the_time(small, large):
    less, more = (measure(str(size), stacked(*size))["seconds"] for size in (small, large))
    assert more <= 12 * less


def test_the_largest_application_takes_seconds():
    rows = list(csv.DictReader((RESULTS / "tracing_cost.csv").open()))
    (row,) = [row for row in rows if row["model"] == "NASNetLarge"]
    assert float(row["seconds"]) <= 10
