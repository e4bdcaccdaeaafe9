"""One self-contained HTML page of a report."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from keras_dynhp.report import figures

if TYPE_CHECKING:
    from keras_dynhp.report.record import Report

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --line: #d0d7de; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117; --line: #30363d; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 1100px; margin: 0 auto; padding: 16px; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; } td, th { padding: 4px 12px 4px 0; text-align: left;
       border-bottom: 1px solid var(--line); } td.n { text-align: right; white-space: nowrap; }
pre { overflow-x: auto; }
"""

# Plotly draws with colours of its own; this gives its text and grid those of the page.
SCRIPT = """
function paint() {
  const ink = getComputedStyle(document.documentElement).getPropertyValue('--ink').trim();
  const line = getComputedStyle(document.documentElement).getPropertyValue('--line').trim();
  document.querySelectorAll('.js-plotly-plot').forEach(function (plot) {
    const change = {'font.color': ink};
    Object.keys(plot.layout).filter(k => /^[xy]axis/.test(k)).forEach(function (axis) {
      change[axis + '.gridcolor'] = line; change[axis + '.zerolinecolor'] = line;
    });
    Plotly.relayout(plot, change);
  });
}
window.addEventListener('load', paint);
window.matchMedia('(prefers-color-scheme: dark)').addEventListener('change', paint);
"""


def write_page(report: Report, path: str) -> None:
    """Write the page of a report to `path`."""
    figures.plotly()
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        "<link rel='icon' href='data:,'>",
        f"<title>Pruning report</title><style>{STYLE}</style></head><body>",
        "<h1>Pruning report</h1>",
        _before_after(report),
    ]
    drawings = [figures.widths(report), figures.memory(report), figures.progress(report)]
    for number, figure in enumerate(drawings if report.epochs else []):
        parts.append(
            figure.to_html(
                full_html=False,
                include_plotlyjs=number == 0,
                config={"responsive": True, "displayModeBar": False},
            )
        )
    parts.append(_table("Kept whole", ("group", "why"), report.kept.items()))
    parts.append(_table("Barriers", ("layer", "why"), report.barriers.items()))
    if report.device:
        rows = [(k, v) for k, v in report.device.items() if not isinstance(v, (dict, list))]
        parts.append(_table("On the device", ("figure", "value"), rows))
    if report.notes:
        parts.append(_table("Notes", ("note",), [(note,) for note in report.notes]))
    parts.append(f"<script>{SCRIPT}</script></body></html>")
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(parts))


def _before_after(report: Report) -> str:
    rows = []
    for name, label in (("params", "parameters"), ("macs", "MACs"), ("neurons", "neurons")):
        if name in report.before:
            first, last = report.before[name], report.after[name]
            rows.append((label, f"{first:,}", f"{last:,}", f"{first / max(last, 1):.1f}x"))
    if report.epochs:
        first, last = (report.epochs[i]["logs"] for i in (0, -1))
        for name in last:
            if name not in ("params", "neurons") and name in first:
                rows.append((name, f"{first[name]:,.5g}", f"{last[name]:,.5g}", ""))
    return _table("Before and after", ("", "before", "after", "fewer"), rows)


def _table(title: str, head, rows) -> str:
    rows = list(rows)
    if not rows:
        return ""

    def cell(value) -> str:
        text = html.escape(str(value))
        return f"<td class='n'>{text}</td>" if text[:1].isdigit() else f"<td>{text}</td>"

    body = "".join("<tr>" + "".join(cell(value) for value in row) + "</tr>" for row in rows)
    header = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    return f"<h2>{title}</h2><div class='wide'><table><tr>{header}</tr>{body}</table></div>"
