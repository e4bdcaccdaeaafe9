import pytest

from keras_dynhp.report import figures
from keras_dynhp.report.record import Report

from .conftest import FULL, NAMES


def traces(figure):
    return {trace.name: trace for trace in figure.data}


def test_widths_are_shares_of_the_full_network(report):
    (heat,) = figures.draw(report, [figures.widths]).data
    assert heat.z[-1][0] == 1.0 and heat.z[-1][2] == pytest.approx(12 / 20)  # conv_1, on top
    assert list(heat.customdata[0][5]) == ["hidden", 100]
    assert len(heat.z) == len(NAMES)


def test_a_group_that_can_shrink_no_more_is_one_neuron(report):
    del report.epochs[5]["widths"]["hidden"]
    (heat,) = figures.draw(report, [figures.widths]).data
    assert heat.z[0][5] == 1 / FULL[-1]


def test_memory_is_stacked_by_kind_with_peak_and_budget(report):
    figure = figures.draw(report, [figures.memory])
    found = traces(figure)
    assert list(found) == [*figures.KINDS, "peak"]
    stacked = sum(found[kind].y[3] for kind in figures.KINDS)
    assert stacked == pytest.approx(report.epochs[3]["memory"]["total"] / 2**20)
    assert found["peak"].y[3] == pytest.approx(0.97 * stacked)
    budget = [shape for shape in figure.layout.shapes if shape.y0 == shape.y1 == 12]
    assert len(budget) == 1


def test_without_estimates_and_budget_memory_has_no_line(report):
    report.budget = None
    for epoch in report.epochs:
        epoch["memory"] = None
        del epoch["logs"]["train_memory"]
    assert not figures.draw(report, [figures.memory]).data


def test_metrics_are_those_of_fit_and_losses_only_where_there_is_no_other(report):
    assert list(traces(figures.draw(report, [figures.metrics]))) == ["accuracy", "val_accuracy"]
    for epoch in report.epochs:
        del epoch["logs"]["accuracy"], epoch["logs"]["val_accuracy"]
    assert list(traces(figures.draw(report, [figures.metrics]))) == ["loss"]


def test_prunes_are_marked(report):
    shapes = figures.draw(report, [figures.batch_size]).layout.shapes
    assert [shape.x0 for shape in shapes] == [2, 3, 4, 5]


def test_plot_has_every_panel(report):
    figure = report.plot()
    titles = [a.text for a in figure.layout.annotations if a.text in figures.TITLES.values()]
    assert titles == list(figures.TITLES.values())
    assert {"batch size", "learning rate", "accuracy", "peak"} <= set(traces(figure))
    assert len({trace.yaxis for trace in figure.data}) == len(figures.PANELS)


def test_nothing_to_plot():
    with pytest.raises(ValueError, match="no epoch"):
        Report().plot()
