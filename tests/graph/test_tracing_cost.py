"""Tracing and planning cost time linear in the model; benchmarks/tracing_cost.py plots it."""

from __future__ import annotations

import csv
import math
import sys

import pytest

from benchmarks.tracing_cost import RESULTS, measure, stacked


@pytest.mark.parametrize(
    ("small", "large"), [((10, 8), (80, 8)), ((2, 64), (2, 512))], ids=["deeper", "wider"]
)
def test_eight_times_the_model_costs_no_more_than_eight_times_the_time(small, large):
    """What else the machine does makes a measurement longer, never shorter: the shortest count."""
    models = stacked(*small), stacked(*large)
    less = more = math.inf
    for _ in range(10):
        less, more = (
            min(shortest, measure("", model)["seconds"])
            for shortest, model in zip((less, more), models)
        )
        if more <= 12 * less:
            return
    pytest.fail(f"{more} seconds, more than twelve times {less}")


def calls_of(model):
    count = 0

    def note(*_):
        nonlocal count
        count += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        measure("", model)
    finally:
        sys.setprofile(before)
    return count


def test_eight_times_the_layers_cost_no_more_than_eight_times_the_calls():
    """Of functions, which no other program on the machine makes more."""
    shallow, deep = stacked(10, 8), stacked(80, 8)
    for model in (shallow, deep):
        measure("", model)  # what is done once for a process
    assert calls_of(deep) <= 8 * calls_of(shallow)


def test_the_largest_application_takes_seconds():
    rows = list(csv.DictReader((RESULTS / "tracing_cost.csv").open()))
    (row,) = [row for row in rows if row["model"] == "NASNetLarge"]
    assert float(row["seconds"]) <= 10
