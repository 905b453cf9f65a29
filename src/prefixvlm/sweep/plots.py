"""Plots of a sweep: learning curves side by side, and the metric against the values of an option."""

import statistics
from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from prefixvlm.report.plots import GRID, INK, MAX_POINTS, MUTED, SERIES, plot_settings, to_svg
from prefixvlm.sweep.compare import SetUp, number_of
from prefixvlm.sweep.jobs import Job

COLUMNS, MAX_PANELS, MAX_LINES, MAX_TICKS = 4, 12, 4, 5


def side_by_side(set_ups: Sequence[SetUp], metric: str) -> Markup | None:
    """Return a panel for each of the best set-ups, with equal axes, in front of the faint curves of all jobs.

    Returns None if no job has logged the metric.
    """
    shown = [each for each in set_ups if any(metric in job.curves for job in each.jobs)][:MAX_PANELS]
    if not shown:
        return None
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    with plot_settings():
        figure = Figure(figsize=(3.1 * columns, 2.5 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
        for axes, each in zip(panels, shown, strict=False):
            for other in set_ups:
                for job in other.jobs:
                    _draw(axes, job, metric, GRID, 0.8)
            for index, job in enumerate(job for job in each.jobs if metric in job.curves):
                _draw(axes, job, metric, SERIES[index % len(SERIES)], 1.6)
            lines = [f"{key}={value}"[:40] for key, value in each.options.items()]
            axes.set_title("\n".join(lines[:MAX_LINES]), fontsize=8, color=INK)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.spines[:].set_visible(False)
            axes.grid(color=GRID, linewidth=0.4)
        for axes in list(figure.axes)[len(shown) :]:
            axes.set_visible(False)
        figure.supxlabel("step", fontsize=9, color=MUTED)
        return to_svg(figure, f"{metric} against the step, a panel a set-up")


def _draw(axes: object, job: Job, metric: str, color: str, width: float) -> None:
    points = sorted(job.curves.get(metric, []))
    if points:
        points = points[:: -(-len(points) // MAX_POINTS)]
        marker = "o" if len(points) <= 10 else ""
        axes.plot(*zip(*points, strict=True), color=color, linewidth=width, marker=marker, markersize=2 * width)  # type: ignore[attr-defined]


def by_option(jobs: Sequence[Job], option: str, metric: str) -> Markup:
    """Return a scatter plot of the finished jobs; bars are means. Numbers over more than a decade get a log axis."""
    points = [
        (job.options.get(option, ""), v) for job in jobs if job.state == "done" and (v := job.value(metric)) is not None
    ]
    texts = sorted(
        dict.fromkeys(text for text, _ in points), key=lambda text: (number_of(text) is None, number_of(text) or 0)
    )
    known = [number for text in texts if (number := number_of(text)) is not None]
    numeric = len(known) == len(texts)  # otherwise they are categories, the numbers in front
    with plot_settings():
        figure = Figure(figsize=(4.2, 2.7))
        axes = figure.add_subplot()
        x = dict(zip(texts, known if numeric else range(len(texts)), strict=True))
        axes.plot([x[text] for text, _ in points], [v for _, v in points], "o", ms=4, color=SERIES[0], alpha=0.7)
        if len(texts) < len(points):
            means = [statistics.fmean(value for other, value in points if other == text) for text in texts]
            axes.plot([x[text] for text in texts], means, "_", ms=22, mew=2, color=SERIES[1])
        if numeric:
            if min(known) > 0 and max(known) > 10 * min(known):
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter("{x:g}")
                axes.xaxis.set_minor_formatter("")
            if len(texts) <= MAX_TICKS:
                axes.set_xticks(known, texts)
        else:
            axes.set_xticks(range(len(texts)), [text[:30] or "(not given)" for text in texts])
            if max(map(len, texts)) > 8:
                axes.tick_params("x", rotation=20)
            axes.set_xlim(-0.6, len(texts) - 0.4)
        axes.set(xlabel=option, ylabel=metric)
        axes.grid(color=GRID, linewidth=0.8)
        axes.spines[:].set_visible(False)
        return to_svg(figure, f"{metric} by {option}")
