"""Scatter plot of predicted against true numbers, with the line on which both are equal."""

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from prefixvlm.report.plots import GRID, INK, SERIES, plot_settings, to_svg

MAX_POINTS = 1500


def scatter(title: str, points: Sequence[tuple[float, float]]) -> Markup:
    """Draw the points, or MAX_POINTS evenly chosen ones. points: the true and the predicted number of each item."""
    shown = points[:: -(-len(points) // MAX_POINTS)]
    numbers = [number for point in shown for number in point]
    room = 0.05 * (max(numbers) - min(numbers)) or 1.0
    ends = min(numbers) - room, max(numbers) + room
    with plot_settings():
        figure = Figure(figsize=(4.2, 4.2))
        axes = figure.add_subplot()
        axes.plot(ends, ends, color=INK, linewidth=1, linestyle="--", label="predicted = true")
        axes.plot(*zip(*shown, strict=True), "o", color=SERIES[0], alpha=0.5, markersize=4, markeredgewidth=0)
        axes.set(xlim=ends, ylim=ends, xlabel="true", ylabel="predicted", aspect="equal")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))
        axes.grid(color=GRID, linewidth=0.8)
        axes.spines[:].set_visible(False)
        return to_svg(figure, title)
