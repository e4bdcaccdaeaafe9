"""The figures of a report, made with Plotly."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keras_dynhp.report.record import Report

KINDS = ("weights", "gradients", "optimizer", "activations", "inputs", "workspace")
MB = 1024**2


def plotly():
    """Plotly's figure modules, or an error that says how to get them."""
    try:
        import plotly.graph_objects
        import plotly.subplots
    except ImportError as error:
        raise ImportError(
            'Plots of a report need plotly: pip install "keras-dynhp[report]".'
        ) from error
    return plotly


def widths(report: Report):
    """Heat map: what is left of each group, over epochs."""
    go = plotly().graph_objects
    names = list(report.before.get("widths", {}))
    full = [report.before["widths"][name] for name in names]
    rows = [[epoch["widths"].get(name, 1) for epoch in report.epochs] for name in names]
    return go.Figure(
        go.Heatmap(
            z=[[width / of for width in row] for row, of in zip(rows, full)],
            x=_epochs(report),
            y=names,
            customdata=rows,
            hovertemplate="%{y}, epoch %{x}: %{customdata} neurons<extra></extra>",
            colorscale="Viridis",
            zmin=0,
            zmax=1,
            colorbar={"title": "left", "tickformat": ".0%"},
        ),
        _layout("Width of every group", 120 + 22 * max(len(names), 4)),
    )


def memory(report: Report):
    """Training memory by kind, with the measured peak and the budget."""
    go = plotly().graph_objects
    figure = go.Figure(layout=_layout("Training memory (MB)"))
    if any(epoch.get("memory") for epoch in report.epochs):
        for kind in KINDS:
            figure.add_scatter(
                x=_epochs(report),
                y=[(epoch.get("memory") or {}).get(kind, 0) / MB for epoch in report.epochs],
                name=kind,
                stackgroup="kinds",
                mode="lines",
            )
    peak = _series(report, "train_memory")
    if peak:
        figure.add_scatter(
            x=_epochs(report),
            y=[value / MB for value in peak],
            name="train_memory",
            mode="lines+markers",
            line={"color": "#d62728", "dash": "dot"},
        )
    if report.budget:
        figure.add_hline(
            y=report.budget / MB, line_dash="dash", annotation_text="budget", line_color="#d62728"
        )
    return figure


def progress(report: Report):
    """Metrics, batch size and learning rate; vertical lines where neurons went."""
    make = plotly().subplots.make_subplots
    metrics = [
        name
        for name in (report.epochs[0]["logs"] if report.epochs else {})
        if name not in ("neurons", "params", "batch_size", "train_memory", "learning_rate")
        and not name.endswith("loss")
    ] or ["loss"]
    figure = make(
        rows=3,
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.06,
        subplot_titles=("Metrics", "Batch size", "Learning rate"),
    )
    for name in metrics:
        figure.add_scatter(
            x=_epochs(report), y=_series(report, name), name=name, row=1, col=1, mode="lines"
        )
    for row, name in ((2, "batch_size"), (3, "learning_rate")):
        values = _series(report, name)
        if values:
            figure.add_scatter(
                x=_epochs(report), y=values, name=name, row=row, col=1, line={"shape": "hv"}
            )
    for epoch in report.epochs:
        if epoch["removed"]:
            figure.add_vline(x=epoch["epoch"] + 1, line_width=1, line_dash="dot", opacity=0.5)
    figure.update_layout(_layout("Training (dotted lines: neurons removed)", 620))
    return figure


def overview(report: Report):
    """Widths, memory and progress in one figure, for a notebook."""
    make = plotly().subplots.make_subplots
    parts = [widths(report), memory(report), progress(report)]
    figure = make(
        rows=3, cols=1, vertical_spacing=0.08, subplot_titles=[p.layout.title.text for p in parts]
    )
    for row, part in enumerate(parts, start=1):
        for trace in part.data:
            if row == 3 and trace.yaxis not in (None, "y"):
                continue
            figure.add_trace(trace.update(xaxis=None, yaxis=None), row=row, col=1)
    figure.update_traces(selector={"type": "heatmap"}, showscale=False)
    figure.update_layout(height=900, template="plotly_white")
    return figure


def _epochs(report: Report) -> list[int]:
    return [epoch["epoch"] + 1 for epoch in report.epochs]


def _series(report: Report, name: str) -> list[float]:
    values = [epoch["logs"].get(name) for epoch in report.epochs]
    return values if any(value is not None for value in values) else []


def _layout(title: str, height: int = 360) -> dict:
    return {
        "title": {"text": title, "font": {"size": 16}},
        "height": height,
        "margin": {"l": 40, "r": 10, "t": 50, "b": 40},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "legend": {"orientation": "h", "y": -0.15},
        "xaxis": {"automargin": True},
        "yaxis": {"automargin": True},
    }
