"""What the report says in words."""

import json

import keras
import numpy as np
import pytest

import keras_dynhp as dynhp
from keras_dynhp.report.record import Report


@pytest.mark.parametrize("reached", [False, True])
def test_it_says_whether_the_target_was_missed_and_by_how_much(reached):
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(20, "relu"), keras.layers.Dense(1)]
    )
    model.compile("adam", "mse")
    schedule = "cubic" if reached else lambda progress: 0.5 if progress else 0.0
    hp = dynhp.DynHP(target=dynhp.Target(params=60), schedule=schedule)
    random = np.random.default_rng(0)
    x, y = random.normal(size=(64, 4)), random.normal(size=(64, 1))
    model.fit(x, y, epochs=4, callbacks=[hp], verbose=0)
    now = model.count_params()
    assert hp.on_target is reached and (now <= 60) is reached
    assert hp.report.missed == ({} if reached else {"params": (now, 60)})
    said = f"Target missed: params is {now} where 60 are allowed."
    assert (said in str(hp.report)) is not reached
    assert Report.from_dict(hp.report.to_dict()).missed == hp.report.missed


def test_a_metric_with_a_value_for_each_class_is_noted_by_its_mean():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3)]
    )
    model.compile("adam", "mse", metrics=[keras.metrics.F1Score(threshold=0.5)])
    hp = dynhp.DynHP()
    x, y = np.random.rand(32, 4), np.eye(3)[np.arange(32) % 3]
    history = model.fit(x, y, epochs=2, verbose=0, callbacks=[hp]).history
    scores = [epoch["logs"]["f1_score"] for epoch in hp.report.epochs]
    assert scores == pytest.approx([float(np.mean(each)) for each in history["f1_score"]])


class Undefined(keras.metrics.Metric):
    def __init__(self, value):
        super().__init__(name="undefined")
        self._value = value

    def update_state(self, *values, **options):
        pass

    def result(self):
        return keras.ops.convert_to_tensor(self._value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_leaves_the_file_one_that_strict_readers_take(value, tmp_path):
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)]
    )
    model.compile("adam", "mse", metrics=[Undefined(value)])
    hp = dynhp.DynHP()
    random = np.random.default_rng(0)
    x, y = random.normal(size=(32, 4)), random.normal(size=(32, 1))
    model.fit(x, y, epochs=2, verbose=0, callbacks=[hp])
    hp.report.save(tmp_path)

    def refuse(constant):
        raise ValueError(f"not JSON: {constant}")

    read = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert [epoch["logs"]["undefined"] for epoch in read["epochs"]] == [None, None]
    assert all(epoch["logs"]["loss"] > 0 for epoch in read["epochs"])
    pytest.importorskip("plotly")
    Report.from_dict(read).to_html(tmp_path / "report.html")
    assert "not finite" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("callback", [dynhp.DynHP, dynhp.PruneAndRebuild])
def test_a_run_in_bfloat16_throughout(callback):
    """NumPy knows bfloat16 as a guest only: not every function of it takes such arrays."""
    keras.config.set_floatx("bfloat16")
    try:
        model = keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)]
        )
        model.compile("adam", "mse", metrics=["mae"])
        x, y = np.ones((32, 4), "float32"), np.ones((32, 1), "float32")
        hp = callback()
        model.fit(x, y, epochs=2, verbose=0, callbacks=[hp])
    finally:
        keras.config.set_floatx("float32")
    logs = hp.report.epochs[-1]["logs"]
    assert logs["learning_rate"] == pytest.approx(1e-3, rel=0.01)
    assert logs["params"] == model.count_params()


def test_groups_that_are_frozen_meanwhile_have_the_widths_that_they_had():
    layers = [keras.layers.Dense(16, "relu", name=name) for name in "abc"]
    model = keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(1)])
    model.compile("adam", "mse")
    hp = dynhp.PruneAndRebuild(target=dynhp.Target(compression=3), schedule=lambda progress: 0.7)
    random = np.random.default_rng(0)
    x, y = random.normal(size=(64, 8)), random.normal(size=(64, 1))
    model.fit(x, y, epochs=2, callbacks=[hp], verbose=0)
    for name in "ab":
        model.get_layer(name).trainable = False
    model.compile("adam", "mse")
    hp.schedule = lambda progress: 0.9
    model.fit(x, y, epochs=2, callbacks=[hp], verbose=0)
    widths = {name: model.get_layer(name).units for name in "abc"}
    assert 1 < widths["a"] < 16 and hp.report.after["widths"] == widths
    assert hp.report.after["neurons"] == sum(widths.values())
    assert f"  {'a':<28} {16:>5} -> {widths['a']}\n" in str(hp.report)
