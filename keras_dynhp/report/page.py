"""One self-contained HTML page of a report."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TYPE_CHECKING

from keras_dynhp.report import figures
from keras_dynhp.sizes import format_size

if TYPE_CHECKING:
    from keras_dynhp.report.record import Report

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --line: #d0d7de; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117; --line: #30363d; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 1100px; margin: 0 auto; padding: 16px; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 0.5rem; }
.wide { overflow-x: auto; } .beside { display: flex; flex-wrap: wrap; column-gap: 4rem; }
table { border-collapse: collapse; } td, th { padding: 4px 12px 4px 0; text-align: left;
       border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }
td.n, th.n { text-align: right; white-space: nowrap; }
"""

# Plotly draws with colours of its own; this gives its text and grid those of the page.
SCRIPT = """
function paint() {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue('--ink').trim();
  const line = style.getPropertyValue('--line').trim();
  document.querySelectorAll('.js-plotly-plot').forEach(function (plot) {
    const change = {'font.color': ink};
    Object.keys(plot._fullLayout).filter(k => /^[xy]axis/.test(k)).forEach(function (axis) {
      change[axis + '.gridcolor'] = line;
    });
    (plot.layout.shapes || []).forEach(function (shape, number) {
      if (!shape.line.color || shape.ours) {
        change['shapes[' + number + '].line.color'] = ink;
        shape.ours = true;
      }
    });
    Plotly.relayout(plot, change);
  });
}
window.addEventListener('load', paint);
window.matchMedia('(prefers-color-scheme: dark)').addEventListener('change', paint);
"""

COUNTS = {"params": "parameters", "macs": "MACs", "neurons": "neurons"}
BYTES = ("train_memory",)


def write_page(report: Report, path: str) -> None:
    """Write the page of a report to `path`."""
    figures.plotly()
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        "<link rel='icon' href='data:,'>",
        f"<title>Pruning report</title><style>{STYLE}</style></head><body>",
        "<h1>Pruning report</h1>",
        "<div class='beside'>",
        _table("Network", ("", "before", "after", "fewer"), _network(report)),
        _table("Training", ("", "first epoch", "last epoch"), _training(report)),
        "</div>",
        *_drawings(report),
        _table("Groups", ("group", "before", "after"), _widths(report)),
        _table("Kept whole", ("group", "why"), report.kept.items()),
        _table("Barriers", ("layer", "why"), report.barriers.items()),
        _table("On the device", ("", ""), _device(report)),
        _table("Notes", ("",), ([remark] for remark in report.remarks)),
        f"<script>{SCRIPT}</script></body></html>",
    ]
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(parts))


def _drawings(report: Report) -> Iterable[str]:
    for number, panel in enumerate(figures.PANELS if report.epochs else ()):
        figure = figures.draw(report, [panel])
        if not figure.data:
            continue
        yield f"<h2>{figures.TITLES[panel]}</h2>"
        yield figure.to_html(
            full_html=False,
            include_plotlyjs=number == 0,
            config={"responsive": True, "displayModeBar": False},
        )


def _network(report: Report) -> Iterable[tuple]:
    for name, label in COUNTS.items():
        if name in report.before:
            first, last = report.before[name], report.after[name]
            yield label, f"{first:,}", f"{last:,}", f"{first / max(last, 1):.1f}x"


def _training(report: Report) -> Iterable[tuple]:
    first, last = (report.epochs[i]["logs"] for i in (0, -1)) if report.epochs else ({}, {})
    for name in last:
        if name not in COUNTS and name in first:
            write = format_size if name in BYTES else "{:,.5g}".format
            values = (first[name], last[name])
            yield name, *("not finite" if value is None else write(value) for value in values)


def _widths(report: Report) -> Iterable[tuple]:
    after = report.after.get("widths", {})
    for name, width in report.before.get("widths", {}).items():
        yield name, f"{width:,}", f"{after.get(name, 1):,}"


def _device(report: Report) -> Iterable[tuple]:
    device = report.to_dict()["device"] or {}
    for name, value in device.items():
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            number = "{:,}" if isinstance(value, int) else "{:.4g}"
            yield name.replace("_", " "), value if isinstance(value, str) else number.format(value)
    for op in device.get("ops", ()):
        yield f"operator {op['name']}", f"{op['count']}"
    for note in device.get("notes", ()):
        yield "note", note


def _table(title: str, head: tuple, rows: Iterable) -> str:
    rows = [[str(value) for value in row] for row in rows]
    if not rows:
        return ""
    # A column of numbers is read from its right.
    kinds = [
        " class='n'" if all(row[i][:1].isdigit() or not row[i] for row in rows) else ""
        for i in range(len(head))
    ]

    def line(tag: str, cells) -> str:
        made = (f"<{tag}{k}>{html.escape(cell)}</{tag}>" for k, cell in zip(kinds, cells))
        return f"<tr>{''.join(made)}</tr>"

    body = "".join(line("td", row) for row in rows)
    header = line("th", head) if any(head) else ""
    table = f"<div class='wide'><table>{header}{body}</table></div>"
    return f"<section><h2>{title}</h2>{table}</section>"
