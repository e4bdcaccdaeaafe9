"""The page of a report in a real browser: no errors, no network, everything visible."""

import itertools

import pytest

from keras_dynhp.report import figures

from .browser import open_browser, show

# Every part of the page that is to be seen, with its box.
BOXES = """
return [...document.querySelectorAll('h1, h2, .wide, .js-plotly-plot, .main-svg')].map(part => {
  const box = part.getBoundingClientRect();
  return [part.getAttribute('class') || part.tagName, box.left, box.right, box.height];
})
"""
# Text of plots that is cut off by, or outside of, its plot.
CUT = """
const cut = [];
document.querySelectorAll('.js-plotly-plot').forEach(plot => {
  const frame = plot.getBoundingClientRect();
  plot.querySelectorAll('svg text').forEach(text => {
    const box = text.getBoundingClientRect();
    if (box.width && (box.left < frame.left - 1 || box.right > frame.right + 1 ||
                      box.top < frame.top - 1 || box.bottom > frame.bottom + 1))
      cut.push(text.textContent);
  });
});
return cut;
"""
SCROLLING = """
return [...document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth).length
"""
COLORS = """
const ink = getComputedStyle(document.body).color;
const paper = getComputedStyle(document.body).backgroundColor;
const drawn = [...document.querySelectorAll('.xtick text, .ytick text, .legendtext')]
  .map(text => getComputedStyle(text).fill);
return [paper, [ink, ...new Set(drawn)]];
"""


@pytest.fixture(scope="module")
def browser():
    with open_browser() as driver:
        yield driver


@pytest.fixture
def page(report, tmp_path):
    report.to_html(tmp_path / "report.html")
    return tmp_path / "report.html"


@pytest.mark.parametrize(("width", "dark"), itertools.product((400, 1400), (False, True)))
def test_everything_is_visible(browser, page, width, dark):
    show(browser, page, width, dark)
    assert browser.get_log("browser") == []
    boxes = browser.execute_script(BOXES)
    assert sum("js-plotly-plot" in box[0] for box in boxes) == len(figures.PANELS)
    for kind, left, right, height in boxes:
        assert height > 10 and left >= 0 and right <= width, kind
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script(CUT) == []
    assert browser.execute_script(SCROLLING) == 0
    paper, inks = browser.execute_script(COLORS)
    assert (luminance(paper) < 0.1) == dark
    for ink in inks:
        assert contrast(paper, ink) > 4.5, (paper, ink)  # what WCAG asks of text


def test_the_scheme_may_change_while_the_page_is_open(browser, page):
    show(browser, page, 1400, dark=False)
    scheme = {"name": "prefers-color-scheme", "value": "dark"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.execute_async_script("setTimeout(arguments[0], 500)")
    paper, inks = browser.execute_script(COLORS)
    assert luminance(paper) < 0.1
    assert all(contrast(paper, ink) > 4.5 for ink in inks)


def test_tables(browser, page):
    show(browser, page, 1400)
    text = browser.execute_script("return document.body.innerText")
    for part in (
        "431,080\t40,100\t10.8x",
        "a_layer_with_quite_a_long_name_in_a_block\t64\t16",
        "an output of the model (logits)",
        "normalizes over channels, <so> removing one",
        "flash bytes\t43,000",
        "operator ADD\t2",
        "Epoch 2 pruned nothing.",
    ):
        assert part in text


def test_the_page_needs_nothing_else(page):
    """No tag fetches anything: scripts and styles are inside."""
    text = page.read_text(encoding="utf-8")
    assert "<script src" not in text and "<link rel='stylesheet'" not in text and "<img" not in text


def luminance(color):
    channels = [float(c) / 255 for c in color[color.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
