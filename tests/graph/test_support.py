"""Every cell of docs/support_matrix.md."""

from __future__ import annotations

import keras
import pytest

from benchmarks.exactness import check, difference, outputs_of
from benchmarks.support_cases import CASES, HAS_ADAPTIVE_POOLING, KEPT, NONE, PRUNED
from benchmarks.support_matrix import CONTEXTS, PAGE, page, plain

ALONE, *TURNS = CONTEXTS


def cell(number, case, context):
    """The suite has every case by itself, every second in one other context; the rest is slow."""
    turn = number % (2 * len(TURNS))
    in_suite = context == ALONE or context in TURNS[turn : turn + 1]
    marks = () if in_suite else pytest.mark.slow
    return pytest.param(case, context, id=f"{case.name} / {context}", marks=marks)


CELLS = [
    cell(number, case, context)
    for number, case in enumerate(CASES)
    for context in CONTEXTS
    if context not in case.without
]


@pytest.mark.parametrize(("case", "context"), CELLS)
def test_cell(case, context, tmp_path):
    model = CONTEXTS[context](case)
    frozen = {layer.name: layer.trainable for layer in model.layers if layer.weights}
    found = check(model)
    tolerance = 2e-2 if context == "mixed precision" else 1e-5
    assert found.copy_error <= tolerance
    assert found.error <= tolerance
    groups = found.groups
    prunable = {layer for group in groups for layer in group.layers}
    kept = {layer for group in groups.kept for layer in group.layers}
    if case.through != NONE:
        assert ("stem" in prunable) == (case.through == PRUNED), groups
        assert case.through != KEPT or "stem" in kept, groups
    known = {"stem", "stem_2", "reader", "reader_2", "output"}
    if case.own == PRUNED:
        assert prunable - known, groups
    for group in groups.kept:
        assert group.reason
    if len(groups):
        assert found.small.count_params() < model.count_params()
    assert {x.name: x.trainable for x in found.small.layers if x.weights} == frozen
    if CONTEXTS[context] is plain:
        save_and_load(found, tmp_path)


def save_and_load(found, tmp_path):
    """The masked and the rebuilt model survive a file."""
    for model, outputs in zip((found.masked, found.small), found.outputs):
        path = tmp_path / "model.keras"
        model.save(path)
        again = keras.models.load_model(path, safe_mode=False)
        assert difference(outputs, outputs_of(again, found.inputs)) <= 1e-6
        assert len(again.weights) == len(model.weights)  # masks are still shared


def test_page_is_written():
    text = PAGE.read_text()
    if not HAS_ADAPTIVE_POOLING:  # the page is of a Keras that has it
        lines = text.splitlines(keepends=True)
        text = "".join(line for line in lines if "AdaptiveAveragePooling2D" not in line)
    assert text == page()
