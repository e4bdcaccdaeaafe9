"""Every cell of docs/support_matrix.md."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from benchmarks.exactness import check
from benchmarks.support_cases import CASES, KEPT, NONE, PRUNED
from benchmarks.support_matrix import CONTEXTS, PAGE, page

CELLS = [
    pytest.param(case, context, id=f"{case.name} / {context}")
    for case in CASES
    for context in CONTEXTS
    if context not in case.without
]


@pytest.mark.parametrize(("case", "context"), CELLS)
def test_cell(case, context):
    keras.utils.set_random_seed(0)
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


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_saved_and_loaded(case, tmp_path):
    """The masked and the rebuilt model survive a file; the masks are still shared."""
    found = check(CONTEXTS["plain"](case))
    shape = [(2, *(d or 4 for d in x.shape[1:])) for x in found.small.inputs]
    data = [np.random.default_rng(0).integers(0, 4, s).astype("float32") for s in shape]
    keras.config.enable_unsafe_deserialization()
    for name, model in (("masked", found.masked), ("small", found.small)):
        path = tmp_path / f"{name}.keras"
        model.save(path)
        again = keras.models.load_model(path)
        np.testing.assert_allclose(again(data), model(data), rtol=1e-5, atol=1e-6)
        assert len(again.weights) == len(model.weights)


def test_page_is_written():
    assert PAGE.read_text() == page()
