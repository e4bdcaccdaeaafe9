"""What find_groups says, and how it prints, converts and draws."""

from __future__ import annotations

import json
import shutil

import keras
import pytest
from keras import layers as L

import keras_dynhp as dynhp


@pytest.fixture
def groups():
    inputs = keras.Input((8, 8, 3), name="picture")
    x = L.Conv2D(6, 3, padding="same", name="stem")(inputs)
    y = L.Conv2D(5, 3, padding="same", name="inner")(L.BatchNormalization(name="norm")(x))
    x = L.Add(name="sum")([x, L.Conv2D(6, 1, name="outer")(y)])
    x = L.LayerNormalization(name="layer_norm")(L.Conv2D(4, 1, name="last")(x))
    return dynhp.find_groups(keras.Model(inputs, L.Dense(2, name="end")(L.Flatten()(x))))


def test_what_goes_together(groups):
    stem = groups["stem"]
    assert (stem.size, stem.layers, stem.tied) == (6, ["stem", "outer"], ["norm"])
    assert stem.readers == ["inner", "last"]
    assert [group.name for group in groups] == ["stem", "inner"]
    assert groups.neurons == 11 and len(groups) == 2


def test_what_stays_and_why(groups):
    assert {group.name: group.prunable for group in groups.kept} == {"last": False, "end": False}
    assert groups.barriers == {
        "layer_norm": "normalizes over channels, so removing one would change the others"
    }


def test_places_name_every_axis_of_every_variable(groups):
    places = {(p.variable.path, p.axis, p.role) for p in groups["stem"].places}
    assert places == {
        ("stem/kernel", 3, "out"),
        ("stem/bias", 0, "out"),
        ("outer/kernel", 3, "out"),
        ("outer/bias", 0, "out"),
        ("norm/gamma", 0, "along"),
        ("norm/beta", 0, "along"),
        ("norm/moving_mean", 0, "along"),
        ("norm/moving_variance", 0, "along"),
        ("inner/kernel", 2, "in"),
        ("last/kernel", 2, "in"),
    }


def test_prints_at_a_glance(groups):
    text = str(groups)
    assert text.splitlines()[0].startswith("2 prunable groups, 11 neurons, ")
    assert "stem" in text and "with outer, through norm, read by inner last" in text
    assert "barriers:\n  layer_norm: normalizes over channels" in text


def test_a_barrier_is_explained_once(groups):
    text = str(groups)
    assert "last   4 neurons: read by layer_norm, a barrier" in text
    assert text.count("normalizes over channels") == 1
    assert "normalizes over channels" in groups.kept[0].reason  # for programs, in full


def test_one_is_no_plural():
    model = keras.Sequential([keras.Input((4,)), L.Dense(2, name="a"), L.Dense(1, name="b")])
    assert str(dynhp.find_groups(model)).splitlines() == [
        "1 prunable group, 2 neurons, 92.3% of the parameters",
        "  a  2 neurons, read by b",
    ]


def test_barriers_of_one_reason_share_a_line():
    layers = [L.Softmax(name=f"s{i}") if i % 2 else L.Dense(4) for i in range(14)]
    text = str(dynhp.find_groups(keras.Sequential([keras.Input((4,)), *layers, L.Dense(2)])))
    assert "  s1 s3 s5 s7 and 3 more: mixes channels" in text


def test_as_plain_data(groups):
    data = json.loads(json.dumps(groups.to_dict()))
    assert [group["name"] for group in data["groups"]] == ["stem", "inner"]
    assert data["kept"][0]["reason"] and data["barriers"]
    assert 0 < data["prunable_share"] < 1


def test_drawing(groups, tmp_path):
    dot = groups.to_dot()
    assert dot.startswith("digraph channels {") and dot.rstrip().endswith("}")
    assert '"stem" -> "norm"' in dot
    fill = {
        name: dot.split(f'"{name}" [')[1].split("fillcolor=")[1].split('"')[1]
        for name in ("stem", "outer", "inner", "sum")
    }
    assert fill["stem"] == fill["outer"] == fill["sum"] != fill["inner"]
    assert 'color="#e34a33"' in dot  # the barrier
    groups.render(tmp_path / "groups.dot")
    assert (tmp_path / "groups.dot").read_text() == dot + "\n"


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_drawing_as_a_picture(groups, tmp_path):
    groups.render(tmp_path / "groups.svg")
    picture = (tmp_path / "groups.svg").read_text()
    assert "<svg" in picture and "stem" in picture
    with pytest.raises(RuntimeError, match="Graphviz could not draw"):
        groups.render(tmp_path / "groups.nothing")


def test_drawing_without_graphviz(groups, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="needs Graphviz"):
        groups.render(tmp_path / "groups.png")
    assert not (tmp_path / "groups.png").exists()


def test_drawing_of_models_inside_models():
    inside = keras.Input((4,))
    block = keras.Model(inside, L.Dense(4, name="deep")(inside), name="block")
    inputs = keras.Input((4,))
    dot = dynhp.find_groups(keras.Model(inputs, L.Dense(2)(block(L.Dense(4)(inputs))))).to_dot()
    assert '"block/deep"' in dot


def test_a_group_splits_where_a_concatenation_is_cut():
    """Every part must keep a neuron, so the parts are groups of their own."""
    inputs = keras.Input((4,))
    x = L.Dense(8, name="a")(inputs)
    one, other = keras.ops.split(x, 2, axis=-1)
    model = keras.Model(inputs, L.Dense(2)(L.Concatenate()([L.Dense(3)(one), other])))
    assert sorted(group.size for group in dynhp.find_groups(model)) == [3, 4, 4]
