"""Compares the jobs of a sweep: means over seeds, and the share of the variance that each option explains."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prefixvlm.metrics.score_kind import kind_of
from prefixvlm.sweep.jobs import MAX_VALUE, Job

SEED = "seed"
BINS = 4  # an option with more numbers than this is cut into quarters


@dataclass(frozen=True)
class SetUp:
    """Jobs that differ only in their seed.

    mean, spread: mean and standard deviation of the finished jobs; of all jobs if none is finished.
    """

    options: Mapping[str, str]
    jobs: Sequence[Job]
    mean: float | None
    spread: float | None

    @property
    def label(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.options.items()) or "all jobs"

    @property
    def state(self) -> str:
        return ", ".join(dict.fromkeys(job.state for job in self.jobs if job.state != "done"))


@dataclass(frozen=True)
class Effect:
    """The effect of an option on the metric.

    eta_squared: share of the variance of the metric between the values of the option.
    by_chance: the expected share for an option without effect, with as many values and jobs: (k - 1) / (n - 1).
    """

    option: str
    eta_squared: float
    by_chance: float
    num_values: int
    num_jobs: int


def varied(jobs: Sequence[Job]) -> list[str]:
    """Return the options that differ between jobs."""
    names = dict.fromkeys(name for job in jobs for name in job.options)
    return [name for name in names if len({job.options.get(name) for job in jobs}) > 1]


def choose_metric(jobs: Sequence[Job], name: str | None) -> tuple[str, bool]:
    """Return the name of the metric and whether lower is better. name: None for the value that the jobs returned.

    Raises ValueError if no job has logged it.
    """
    objectives = list(dict.fromkeys(name for job in jobs for name in job.objective))
    names = sorted({name for job in jobs for name in job.curves} | set(objectives))
    if name is None and not objectives:
        failed = [f" (job {job.name} failed: {job.problem})" for job in jobs if job.state == "failed"]
        raise ValueError(
            f"no job has ended{''.join(failed[:1])}; name what they have logged so far with --metric NAME, as val/loss"
        )
    if name is not None and name not in names:
        raise ValueError(f"no job has logged {name}; logged are {', '.join(names)}")
    metric = name or objectives[0]
    if metric in objectives[:1]:
        return metric, jobs[0].lower_is_better
    kinds = {name: kind for job in jobs for name, kind in job.kinds.items()}
    if (kind := kind_of(metric, kinds)) is not None:
        return metric, kind.higher_is_better is False
    return metric, "loss" in metric or "perplexity" in metric  # no job has ended, or only with former versions


def set_ups(jobs: Sequence[Job], metric: str, lower_is_better: bool) -> list[SetUp]:
    """Return the set-ups, the best first and those without a value last."""
    options = [name for name in varied(jobs) if name != SEED]
    groups: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        groups.setdefault(tuple(job.options.get(name, "") for name in options), []).append(job)
    result = []
    for values, members in groups.items():
        counted = [job for job in members if job.state == "done"] or members
        scores = [value for job in counted if (value := job.value(metric)) is not None]
        mean = statistics.fmean(scores) if scores else None
        spread = statistics.stdev(scores) if len(scores) > 1 else None
        result.append(SetUp(dict(zip(options, values, strict=True)), members, mean, spread))
    sign = 1 if lower_is_better else -1
    return sorted(result, key=lambda each: (each.mean is None, sign * (each.mean or 0)))


def effects(jobs: Sequence[Job], metric: str) -> list[Effect]:
    """Return the effect of each varied option over the finished jobs, the largest first."""
    done = [(job, value) for job in jobs if job.state == "done" and (value := job.value(metric)) is not None]
    center = statistics.fmean(value for _, value in done) if done else 0.0
    total = sum((value - center) ** 2 for _, value in done)
    result = []
    for option in varied([job for job, _ in done]):
        groups: dict[str, list[float]] = {}
        for group, (_, value) in zip(_groups([job for job, _ in done], option), done, strict=True):
            groups.setdefault(group, []).append(value)
        between = sum(len(values) * (statistics.fmean(values) - center) ** 2 for values in groups.values())
        # Under the null hypothesis eta squared has the mean (k - 1) / (n - 1), large for options of many values.
        share, chance = between / total if total else 0.0, (len(groups) - 1) / max(len(done) - 1, 1)
        result.append(Effect(option, share, min(chance, 1.0), len(groups), len(done)))
    return sorted(result, key=lambda effect: effect.by_chance - effect.eta_squared)


def number_of(text: str | None) -> float | None:
    """Return the number that a text is, or None."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if abs(number) < MAX_VALUE else None  # and not NaN


def _groups(jobs: Sequence[Job], option: str) -> list[str]:
    """Return the value of each job's option, or the quarter of the values if they are many numbers."""
    texts = [job.options.get(option, "") for job in jobs]
    numbers = [number for text in texts if (number := number_of(text)) is not None]
    if len(set(texts)) <= BINS or len(numbers) < len(texts):
        return texts
    order = sorted(set(numbers))
    return [str(order.index(number) * BINS // len(order)) for number in numbers]
