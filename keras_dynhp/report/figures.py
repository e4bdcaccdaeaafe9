"""The figures of a report, made with Plotly: panels over epochs, alone or one above another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keras_dynhp.report.record import Report

KINDS = ("weights", "gradients", "optimizer", "activations", "inputs", "workspace")
# What has a panel of its own, or none.
NOT_METRICS = ("neurons", "params", "batch_size", "train_memory", "learning_rate")
MB = 1024**2
# Colours that can be told apart by eyes that see few, on light and dark paper (Okabe and Ito).
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#999999")
ALARM = "#D55E00"
MOST_TICKS = 10
LONGEST_NAME = 16  # characters of a group's name beside its row, for narrow screens


def plotly():
    """Plotly with its figure modules, or an error that says how to get it."""
    try:
        import plotly.graph_objects
        import plotly.subplots
    except ImportError as error:
        raise ImportError(
            'Plots of a report need plotly: pip install "keras-dynhp[report]".'
        ) from error
    return plotly


def draw(report: Report, panels: Sequence[Callable] | None = None):
    """One Plotly figure of some panels, all of them if None, one above another.

    Args:
        report: of a run that has had an epoch.
        panels: functions of this module that draw into a row of a figure.

    Raises:
        ValueError: if no epoch has been recorded.
        ImportError: without plotly.
    """
    if not report.epochs:
        raise ValueError("There is nothing to plot: no epoch of a `fit` has been recorded.")
    panels = PANELS if panels is None else panels
    heights = [_height(panel, report) for panel in panels]
    figure = plotly().subplots.make_subplots(
        rows=len(panels),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.0 if len(panels) == 1 else 40 / sum(heights),
        row_heights=heights,
        subplot_titles=[TITLES[panel] for panel in panels] if len(panels) > 1 else None,
    )
    for row, panel in enumerate(panels, start=1):
        panel(report, figure, row)
        if panel is not widths:
            _mark_prunes(report, figure, row)
    epochs = _epochs(report)
    ticks = epochs[:: -(-len(epochs) // MOST_TICKS)]
    figure.update_xaxes(
        tickvals=ticks, tickangle=0, range=[epochs[0] - 0.5, epochs[-1] + 0.5], zeroline=False
    )
    figure.update_xaxes(title_text="epoch", row=len(panels))
    figure.update_yaxes(automargin=True, zeroline=False)
    figure.update_layout(
        height=sum(heights) + 110,
        margin={"l": 8, "r": 8, "t": 28, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "yanchor": "top", "y": -60 / sum(heights)},
        hovermode="x unified" if widths not in panels else "closest",
    )
    return figure


def widths(report: Report, figure, row: int) -> None:
    """Heat map: what is left of each group."""
    full = report.before["widths"]
    names = list(full)[::-1]
    left = [[epoch["widths"].get(name, 1) for epoch in report.epochs] for name in names]
    figure.add_trace(
        plotly().graph_objects.Heatmap(
            z=[[width / full[name] for width in line] for line, name in zip(left, names)],
            x=_epochs(report),
            y=list(range(len(names))),
            customdata=[[[name, width] for width in line] for line, name in zip(left, names)],
            hovertemplate="%{customdata[0]}, epoch %{x}: %{customdata[1]} neurons<extra></extra>",
            colorscale="Viridis",
            zmin=0,
            zmax=1,
            colorbar={"title": "left", "tickformat": ".0%", "thickness": 12},
        ),
        row=row,
        col=1,
    )
    shown = [i for i in range(len(names)) if i % max(1, len(names) // 40) == 0]
    figure.update_yaxes(
        tickvals=shown, ticktext=[_short(names[i]) for i in shown], showgrid=False, row=row
    )


def memory(report: Report, figure, row: int) -> None:
    """Training memory by kind as estimated, its peak, and the budget."""
    estimates = [epoch["memory"] for epoch in report.epochs]
    for kind, color in zip(KINDS, COLORS):
        if all(estimates):
            figure.add_scatter(
                x=_epochs(report),
                y=[estimate[kind] / MB for estimate in estimates],
                name=kind,
                stackgroup="kinds",
                mode="lines",
                line={"color": color, "width": 0.5},
                row=row,
                col=1,
            )
    _line(report, figure, row, "train_memory", "peak", 1 / MB, color=ALARM)
    if report.budget:
        figure.add_hline(
            y=report.budget / MB,
            line={"dash": "dash", "color": ALARM},
            annotation_text="budget",
            annotation_position="top left",
            row=row,
            col=1,
        )
    figure.update_yaxes(ticksuffix=" MB", rangemode="tozero", row=row)


def metrics(report: Report, figure, row: int) -> None:
    """Every metric of `fit` but the losses; the losses where there is no other."""
    names = [name for name in report.epochs[0]["logs"] if name not in NOT_METRICS]
    others = [name for name in names if not name.endswith("loss")]
    for name, color in zip(others or names, COLORS * len(names)):
        _line(report, figure, row, name, color=color)


def batch_size(report: Report, figure, row: int) -> None:
    """The batch size of each epoch."""
    _line(report, figure, row, "batch_size", "batch size", shape="hv", color=COLORS[2])
    figure.update_yaxes(rangemode="tozero", row=row)


def learning_rate(report: Report, figure, row: int) -> None:
    """The learning rate at the end of each epoch."""
    _line(report, figure, row, "learning_rate", "learning rate", shape="hv", color=COLORS[3])
    figure.update_yaxes(rangemode="tozero", exponentformat="e", row=row)


TITLES = {
    widths: "Width of every group",
    memory: "Training memory",
    metrics: "Metrics (dotted lines: neurons removed)",
    batch_size: "Batch size",
    learning_rate: "Learning rate",
}
PANELS = tuple(TITLES)


def _height(panel: Callable, report: Report) -> int:
    if panel is widths:
        count = len(report.before["widths"])
        return max(120, 24 * min(count, 20) + 8 * max(0, count - 20))
    return {memory: 260, metrics: 260}.get(panel, 150)


def _line(report, figure, row, name, label=None, scale=1.0, color=None, shape="linear") -> None:
    values = [epoch["logs"].get(name) for epoch in report.epochs]
    if all(value is None for value in values):
        return
    figure.add_scatter(
        x=_epochs(report),
        y=[None if value is None else value * scale for value in values],
        name=label or name,
        mode="lines+markers",
        marker={"size": 4},
        line={"shape": shape, "color": color},
        row=row,
        col=1,
    )


def _mark_prunes(report: Report, figure, row: int) -> None:
    for epoch in report.epochs:
        if epoch["removed"]:
            figure.add_vline(
                x=epoch["epoch"] + 1, line={"width": 1, "dash": "dot"}, opacity=0.4, row=row, col=1
            )


def _epochs(report: Report) -> list[int]:
    return [epoch["epoch"] + 1 for epoch in report.epochs]


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
