"""Report of a sweep: a table for the terminal and a self-contained HTML page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefixvlm.atomic import write_text
from prefixvlm.report.page import render_page
from prefixvlm.report.table import number
from prefixvlm.sweep.compare import Effect, SetUp, choose_metric, effects, set_ups, varied
from prefixvlm.sweep.jobs import Job, read_jobs
from prefixvlm.sweep.plots import by_option, side_by_side

PAGE = Path(__file__).parent / "page.html"
MAX_OPTIONS, MAX_SCORES = 8, 6


@dataclass(frozen=True)
class Comparison:
    """The set-ups of a sweep and the effects of its options, by one metric.

    damaged: by name, why a job cannot be read.
    """

    folder: Path
    metric: str
    lower_is_better: bool
    jobs: Sequence[Job]
    damaged: Mapping[str, str]
    set_ups: Sequence[SetUp]
    effects: Sequence[Effect]

    @property
    def problems(self) -> list[str]:
        """A sentence for each job that failed or is damaged."""
        left_out = [f"job {name} is left out: {problem}" for name, problem in self.damaged.items()]
        states = {"failed": "failed", "done": "is done", "pruned": "was pruned", "unfinished": "is unfinished"}
        return [f"job {job.name} {states[job.state]}: {job.problem}" for job in self.jobs if job.problem] + left_out


def compare(folder: Path, metric: str | None = None) -> Comparison:
    """Compare the jobs in a folder. metric: None for the value that they returned.

    Raises ValueError if there are no jobs, or none with this metric.
    """
    jobs, damaged = read_jobs(folder)
    name, lower = choose_metric(jobs, metric)
    return Comparison(folder, name, lower, jobs, damaged, set_ups(jobs, name, lower), effects(jobs, name))


def text_report(sweep: Comparison) -> str:
    """Return a table of the set-ups, the best first, and a table of the options, the largest effect first."""
    options = list(sweep.set_ups[0].options)
    seeds = any(len(each.jobs) > 1 for each in sweep.set_ups)
    heads = [*options, sweep.metric, *(["± std", "jobs"] if seeds else []), "job", ""]
    lines = []
    for each in sweep.set_ups:
        spread = [number(each.spread, 4), str(len(each.jobs))] if seeds else []
        names = " ".join(job.name for job in each.jobs)
        lines.append([*each.options.values(), number(each.mean, 4), *spread, names, each.state])
    text = _table(heads, lines, len(options))
    if sweep.effects:
        heads = ["option", "share of the variance", "by chance", "values", "jobs"]
        lines = [
            [e.option, f"{e.eta_squared:.0%}", f"{e.by_chance:.0%}", str(e.num_values), str(e.num_jobs)]
            for e in sweep.effects
        ]
        text += "\n\n" + _table(heads, lines, 1)
    return "\n".join([text, *([""] if sweep.problems else []), *sweep.problems])


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]], num_words: int) -> str:
    """Align the first num_words columns to the left, and the others, which are numbers, to the right."""
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    rows = [heads, ["\u2500" * width for width in widths], *lines]
    align = [str.ljust if index < num_words else str.rjust for index in range(len(widths))]
    return "\n".join(
        "  ".join(pad(cell, width) for pad, cell, width in zip(align, row, widths, strict=True)).rstrip()
        for row in rows
    )


def write_report(sweep: Comparison, path: Path) -> None:
    """Write the HTML page of a comparison."""
    names = dict.fromkeys([sweep.metric, "val/loss", "train/loss"])
    pictures = {name: picture for name in names if (picture := side_by_side(sweep.set_ups, name))}
    page = render_page(
        PAGE,
        f"{sweep.folder} \u00b7 prefixvlm sweep",
        {"number": number},
        sweep=sweep,
        scores=_scores(sweep),
        fixed={key: value for key, value in sweep.jobs[0].options.items() if key not in varied(sweep.jobs)},
        pictures=pictures,
        options={e.option: by_option(sweep.jobs, e.option, sweep.metric) for e in sweep.effects[:MAX_OPTIONS]},
    )
    write_text(path, page, errors="replace")


def _scores(sweep: Comparison) -> list[str]:
    """Return the names of the columns beside the metric: other objectives, then scores of the test split."""
    names = [name for job in sweep.jobs for name in (*job.objective, *sorted(job.curves))]
    columns = (name for name in names if name.startswith("test/") or name in sweep.jobs[0].objective)
    return [name for name in dict.fromkeys(columns) if name != sweep.metric][:MAX_SCORES]
