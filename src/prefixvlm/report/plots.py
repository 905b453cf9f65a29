"""Learning curves and confusion matrices as SVG for the page.

Placeholder colours become CSS variables of the page, so that a plot follows its light or dark theme.
"""

import math
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from io import StringIO
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK, MUTED, GRID, ON_ACCENT = "#010101", "#010102", "#010103", "#010104"
SERIES = ("#010111", "#010112", "#010113", "#010114")
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "line", ON_ACCENT: "on-accent"} | {
    color: f"series-{n}" for n, color in enumerate(SERIES, 1)
}
STYLES = ("-", "--", "-.", ":")  # besides colours, which not everybody can tell apart
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the font of the page, and can be searched
    "svg.hashsalt": "prefixvlm",  # without it the ids are random, and equal plots differ from run to run
    "text.parse_math": False,  # a label of the data may hold a "$"
    "axes.edgecolor": GRID,
}
RATE = "learning rate"
# Quantities that share a panel or get a better name, by a pattern of the name without its stage.
PANELS = (
    (r"lr(_.*)?", RATE),
    (r"grad_norm.*", "gradient norm"),
    (r"(prefix|token)_norm", "norm of an embedding"),
    (r"prefix_cosine", "cosine to the nearest tokens"),
    (r"(.*)_bleu_\d", r"\1_bleu"),
    (r"(.*)_(distinct_captions|most_frequent_share)", r"\1_diversity"),
)
MACHINE = {  # the speed of the run and the data that it lost
    "samples_per_second": "images a second",
    "step_seconds": "seconds a step",
    "data_wait": "share of waiting for data",
    "memory_gb": "memory, GB",
    "padding": "share of padding",
    "cut_texts": "texts cut so far",
    "bad_samples": "bad samples so far",
}
LAST = ("_vocabulary", "_mean_length")
MAX_POINTS, MAX_PANELS = 500, 18
MAX_VALUE = 1e100  # the axis of larger ones overflows
LARGE, SMALL = (4.8, 2.9), (3.2, 1.9)  # inches

History = Sequence[dict[str, Any]]
Points = list[tuple[float, float]]


def curves(history: History) -> dict[str, Markup]:
    """Return a plot for each quantity, losses first, then learning rates. The stages of a quantity share a plot."""
    panels = _panels(history)
    order = sorted(
        (name for name in panels if name not in MACHINE),
        key=lambda name: (name.endswith(LAST), "loss" not in name, name != RATE, "/" in name),
    )
    return {name: _curve(name, panels[name], LARGE) for name in order[:MAX_PANELS]}


def machine_curves(history: History) -> dict[str, Markup]:
    """Return small plots of speed and lost data, without quantities that were always 0."""
    panels = _panels(history)
    shown = [name for name in MACHINE if any(value for points in panels.get(name, {}).values() for _, value in points)]
    return {MACHINE[name]: _curve(MACHINE[name], panels[name], SMALL) for name in shown}


def _panels(history: History) -> dict[str, dict[str, Points]]:
    """Return the points of each logged name, by quantity."""
    panels: dict[str, dict[str, Points]] = {}
    for entry in history:
        if abs(entry["value"]) < MAX_VALUE:
            name = _drawable(entry["name"])
            panels.setdefault(_quantity(name), {}).setdefault(name, []).append((entry["step"], entry["value"]))
    panels.pop("epoch", None)
    return panels


def confusion(title: str, labels: Sequence[str], counts: Sequence[Sequence[int]]) -> Markup:
    """Draw a confusion matrix, with a row for each true class, shaded by the share of the row."""
    size = len(labels)
    with plot_settings():
        figure = Figure(figsize=(2.2 + 0.46 * size, 1.6 + 0.36 * size))
        axes = figure.add_subplot()
        for y, row in enumerate(counts):
            for x, count in enumerate(row):
                share = count / (sum(row) or 1)
                axes.fill_between([x - 0.5, x + 0.5], y - 0.5, y + 0.5, color=SERIES[0], alpha=share, linewidth=0)
                if count:
                    color = ON_ACCENT if share > 0.5 else INK
                    axes.text(x, y, f"{count:,}", ha="center", va="center", fontsize=8, color=color)
        names = [_short(label) for label in labels]
        axes.set_xticks(range(size), names, rotation=45, ha="right")
        axes.set_yticks(range(size), names)
        axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), xlabel="predicted", ylabel="true")
        axes.spines[:].set_visible(True)
        return to_svg(figure, title)


def _short(label: str) -> str:
    """Shorten a label for an axis."""
    whole = _drawable(label) or "(empty)"
    return whole if len(whole) <= 22 else f"{whole[:21]}…"


def _drawable(text: str) -> str:
    """Replace lone surrogates, which matplotlib cannot draw, by "?"."""
    return text.encode("utf-8", "replace").decode()


def _quantity(name: str) -> str:
    """Return the quantity of a logged name: the name without its stage, or the name of the panel that it shares.

    Lightning's LearningRateMonitor logs `lr-AdamW` and `lr-AdamW/pg2`.
    """
    if name.startswith("lr-"):
        return RATE
    quantity = name.split("/", 1)[-1]
    for pattern, panel in PANELS:
        if match := re.fullmatch(pattern, quantity):
            return match.expand(panel)
    return quantity


def _curve(quantity: str, lines: dict[str, Points], size: tuple[float, float]) -> Markup:
    with plot_settings():
        figure = Figure(figsize=size)
        axes = figure.add_subplot()
        for place, (name, points) in enumerate(sorted(lines.items(), key=lambda line: -len(line[1]))):
            points = sorted(points)[:: math.ceil(len(points) / MAX_POINTS)]
            (line,) = axes.plot(*zip(*points, strict=True), label=name, marker="o" if len(points) <= 30 else "", ms=3.5)
            line.set(color=SERIES[place % len(SERIES)], linestyle=STYLES[place % len(STYLES)])
        axes.set(xlabel="step", ylabel=quantity if size == LARGE and len(quantity) <= 30 else "")
        axes.xaxis.set_major_locator(MaxNLocator(6 if size == LARGE else 4, integer=True))
        axes.grid(color=GRID, linewidth=0.8)
        axes.spines[:].set_visible(False)
        if size == LARGE or len(lines) > 1:
            axes.legend(frameon=False, labelcolor=INK, fontsize=9)
        return to_svg(figure, f"{quantity} against the step of training")


@contextmanager
def plot_settings() -> Iterator[None]:
    """Set matplotlib up for this page within the block."""
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        # matplotlib only measures the text in its own font; the browser shows it in one that has the glyph.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        yield


def to_svg(figure: Figure, title: str) -> Markup:
    """Return the figure as SVG, with a title for screen readers, unique ids and the colours of the page."""
    for axes in figure.axes:
        axes.tick_params(colors=MUTED, labelsize=9, length=0)
        axes.xaxis.label.set_color(MUTED)
        axes.yaxis.label.set_color(MUTED)
    text = StringIO()
    figure.savefig(text, format="svg", transparent=True, bbox_inches="tight", pad_inches=0.05)
    drawing = text.getvalue()
    # The metadata holds the date, by which equal plots would differ.
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing[drawing.index("<svg") :], flags=re.DOTALL)
    # All plots stand in one page, where their ids (clip paths, markers) must not collide.
    prefix = f"{zlib.crc32(title.encode()):08x}-"
    drawing = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", drawing)
    for color, variable in VARIABLES.items():
        drawing = drawing.replace(color, f"var(--{variable})")
    viewbox = re.search(r'viewBox="[^"]*"', drawing)
    body = drawing[drawing.index(">") + 1 :]
    assert viewbox
    size = f'style="max-width: {figure.get_figwidth() * 84:.0f}px"'
    return Markup(f'<svg {viewbox[0]} {size} role="img" aria-label="{escape(title)}">{body}')
