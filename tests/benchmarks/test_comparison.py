"""Results that are kept, found again, and summed up rightly; the training itself takes hours."""

import importlib.util
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks.core import CAP_EPOCHS, CAP_MB, FASHION, ROWS, Runs
from benchmarks.job import Job, learning_rate
from benchmarks.methods import METHODS
from benchmarks.plots import plot_rows
from benchmarks.store import Store
from benchmarks.tables import comparison, is_whole, made_by, share, values, written
from benchmarks.workloads import WORKLOADS

ROW = "fashion_lenet300_10x"


def record(method, seed, accuracy=90.0, seconds=10.0, **more):
    workload = WORKLOADS[more.get("row", ROW)]
    return {
        **{"row": ROW, "method": method, "seed": seed, "epochs": workload.epochs},
        **{"split": "test", "batch_size": workload.batch_size, "cap_mb": None},
        **{"accuracy": accuracy, "seconds": seconds, "params": 1000, "nonzero": 1000, "macs": 900},
        **{"int8_bytes": None},
        **{"first_memory": 100 * 2**20, "last_memory": 10 * 2**20, "mean_memory": 50 * 2**20},
        **{"peak_memory": 100 * 2**20, "last_batch_size": 128, **more},
    }


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "runs.csv")
    for seed in range(3):
        store.add(record("dense", seed, 90.0 + seed, 10.0))
        store.add(record("dynhp", seed, 89.5 + seed, 6.0 + seed))
        store.add(record("static", seed, 88.0 + seed, 5.0))
        store.add(record("dynhp_fixed", seed))
    return store


def test_a_run_is_found_again_after_a_restart(store):
    job = Job(ROW, "dense", 1, 20, batch_size=128)
    again = Store(store.path)
    assert again.get(job)["accuracy"] == 91.0
    assert again.records == store.records
    for other in (
        *(replace(job, seed=7), replace(job, epochs=3), replace(job, split="validation")),
        *(replace(job, cap_mb=64), replace(job, batch_size=64)),
    ):
        assert again.find(other) is None


def test_rows_share_the_runs_of_a_method_that_knows_nothing_of_what_differs(store):
    with_inputs, smaller = "fashion_lenet300_inputs_10x", "fashion_lenet300_inputs_20x"
    for row, method in ((with_inputs, "dense"), (smaller, "dense"), (with_inputs, "static")):
        job = Job(row, method, 1, 20)
        assert store.get(job)["accuracy"] == values(store.records, ROW, method, "accuracy")[1]
        assert store.find(job)["row"] == row
    assert store._of_another_row(Job(smaller, "static", 1, 20)) is None
    assert store._of_another_row(Job(with_inputs, "dynhp", 1, 20)) is None
    assert store._of_another_row(Job("mnist_lenet300_10x", "dense", 1, 20)) is None
    assert store._of_another_row(Job(with_inputs, "dense", 1, 20, cap_mb=64)) is None


def test_only_whole_runs_are_compared(store):
    assert all(is_whole(r, "test") for r in store.records)
    for change in ({"split": "validation"}, {"epochs": 1}, {"cap_mb": 64}, {"batch_size": 7}):
        assert not is_whole({**store.records[0], **change}, "test")


def test_means_spread_and_shares(store):
    assert written(values(store.records, ROW, "dense", "accuracy"), "{:.2f}") == "91.00 ± 1.00"
    assert share(store.records, ROW, "dynhp", "seconds") == pytest.approx(0.7)
    assert share(store.records, ROW, "torch_pruning", "seconds") is None


def test_the_table_has_a_line_for_every_method_that_was_run(store):
    text = comparison(store.records)
    assert WORKLOADS[ROW].goal in text and "89.4% test accuracy: 90.50, reached." in text
    line = next(line for line in text.splitlines() if METHODS["dynhp"].title in line)
    assert "90.50 ± 1.00" in line and "| 100.0 ± 0.0 | 10.0 ± 0.0 |" in line
    assert METHODS["tfmot"].title not in text


def test_a_table_says_what_is_missing():
    row = "fashion_lenet5_20x"  # within 0.5 points of dense
    dense = record("dense", 0, 92.0, row=row)
    near, far = (record("dynhp", 0, accuracy, row=row) for accuracy in (91.5, 91.25))
    assert "of dense: 91.50, reached." in comparison([dense, near])
    assert "of dense: 91.25, **0.25 short**." in comparison([dense, far])
    assert "of dense.\n" in comparison([near]) and "of dense.\n" in comparison([dense])


def test_a_table_says_what_made_it():
    text = made_by("python -m benchmarks.compare", "numpy", "no-such-package")
    versions = f"tensorflow {tf.__version__}, keras {keras.__version__}, numpy {np.__version__}"
    assert text.startswith("Made by `python -m benchmarks.compare`: Python 3.")
    assert versions in text and "no-such-package" not in text


def test_plots_are_written(store, tmp_path):
    plot_rows(store.records, tmp_path)
    assert (tmp_path / "compare-fashion_mnist-lenet_300_100.png").stat().st_size > 10_000


def test_core_rows_say_what_was_reached_and_whether_it_is_enough(store):
    runs = Runs(store, seeds=3)
    reached, enough = ROWS["fashion"].measure(runs)
    assert reached.startswith("dense 91.00") and enough
    for seed in range(3):
        small = next(r for r in store.records if (r["method"], r["seed"]) == ("dynhp_fixed", seed))
        store.add({**small, "batch_size": 32})
    text = "batch 32: 90% less (100.0 MB, 10.0 MB); batch 128: 90% less (100.0 MB, 10.0 MB)"
    assert ROWS["memory"].measure(runs) == (text, True)
    assert ROWS["time"].measure(runs) == ("0.70 (median of 3 pairs: 0.60, 0.70, 0.80)", True)
    for run in store.records:
        run["accuracy"] -= 1.2 if run["method"] == "dynhp" else 0
        run["last_memory"] *= 3
    assert not ROWS["fashion"].measure(runs)[1]
    assert not ROWS["memory"].measure(runs)[1]


def test_a_cap_that_plain_fit_survives_is_no_proof(tmp_path):
    store = Store(tmp_path / "runs.csv")
    ours = {"row": FASHION, "cap_mb": CAP_MB, "epochs": CAP_EPOCHS, "last_batch_size": 700}
    plain = {**ours, "epochs": 1, "batch_size": 700, "error": "ResourceExhaustedError"}
    store.add(record("dynhp_memory", 0, **ours, peak_memory=(CAP_MB - 1) * 2**20))
    store.add(record("dense", 0, **plain))
    assert ROWS["cap"].measure(Runs(store, 1))[1]
    store.records[1]["error"] = None
    assert not ROWS["cap"].measure(Runs(store, 1))[1]


def test_the_learning_rate_falls_along_a_cosine():
    rates = [learning_rate(epoch, 20) for epoch in range(20)]
    assert rates == sorted(rates, reverse=True)
    assert sum(rates) / 20 == pytest.approx(1e-3) and 0 < rates[-1] < 1e-5


def test_every_method_has_its_module():
    for method in METHODS.values():
        assert importlib.util.find_spec(f"benchmarks.methods.{method.module}")
        assert method.dense in METHODS and all(name in METHODS for name in method.after)
