"""Jobs go in; the set-ups with the mean over their seeds, and how much each option mattered, come out."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prefixvlm.sweep.jobs import Job

SEED = "seed"
BINS = 4  # of an option with more values: as many of its jobs in each


@dataclass(frozen=True)
class SetUp:
    """Jobs that differ in nothing but their seed. mean: over those that were not pruned, if there are any."""

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
    """eta_squared: the share of the variance of the metric that is between an option's values.

    by_chance: the share to be expected of an option that does nothing, with as many values and jobs.
    """

    option: str
    eta_squared: float
    by_chance: float
    num_values: int
    num_jobs: int


def varied(jobs: Sequence[Job]) -> list[str]:
    """The options that are not the same in all jobs."""
    names = dict.fromkeys(name for job in jobs for name in job.options)
    return [name for name in names if len({job.options.get(name) for job in jobs}) > 1]


def chosen_metric(jobs: Sequence[Job], wanted: str | None) -> tuple[str, bool]:
    """Its name, and whether lower is better; None chooses what the jobs returned.

    Raises ValueError for one that nobody has logged.
    """
    objectives = list(dict.fromkeys(name for job in jobs for name in job.objective))
    names = sorted({name for job in jobs for name in job.curves} | set(objectives))
    if wanted is None and not objectives:
        raise ValueError("no job has ended; name what they have logged so far with --metric NAME, as val/loss")
    if wanted is not None and wanted not in names:
        raise ValueError(f"no job has logged {wanted}; logged are {', '.join(names)}")
    metric = wanted or objectives[0]
    if metric in objectives[:1]:
        return metric, jobs[0].lower_is_better
    return metric, "loss" in metric or "perplexity" in metric


def set_ups(jobs: Sequence[Job], metric: str, lower_is_better: bool) -> list[SetUp]:
    """The best first, those without a value last."""
    options = [name for name in varied(jobs) if name != SEED]
    groups: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        groups.setdefault(tuple(job.options.get(name, "") for name in options), []).append(job)
    found = []
    for values, members in groups.items():
        counted = [job for job in members if job.state == "done"] or members
        scores = [value for job in counted if (value := job.value(metric)) is not None]
        mean = statistics.fmean(scores) if scores else None
        spread = statistics.stdev(scores) if len(scores) > 1 else None
        found.append(SetUp(dict(zip(options, values, strict=True)), members, mean, spread))
    sign = 1 if lower_is_better else -1
    return sorted(found, key=lambda each: (each.mean is None, sign * (each.mean or 0)))


def effects(jobs: Sequence[Job], metric: str) -> list[Effect]:
    """Of each varied option, over the jobs that are done; the one that mattered most first."""
    done = [(job, value) for job in jobs if job.state == "done" and (value := job.value(metric)) is not None]
    center = statistics.fmean(value for _, value in done) if done else 0.0
    total = sum((value - center) ** 2 for _, value in done)
    found = []
    for option in varied([job for job, _ in done]):
        groups: dict[str, list[float]] = {}
        for place, (_, value) in zip(_places([job for job, _ in done], option), done, strict=True):
            groups.setdefault(place, []).append(value)
        between = sum(len(values) * (statistics.fmean(values) - center) ** 2 for values in groups.values())
        share, chance = between / total if total else 0.0, (len(groups) - 1) / max(len(done) - 1, 1)
        found.append(Effect(option, share, min(chance, 1.0), len(groups), len(done)))
    return sorted(found, key=lambda effect: effect.by_chance - effect.eta_squared)


def number_of(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _places(jobs: Sequence[Job], option: str) -> list[str]:
    """The value of each job; of many numbers, the quarter in which it is."""
    texts = [job.options.get(option, "") for job in jobs]
    numbers = [number for text in texts if (number := number_of(text)) is not None]
    if len(set(texts)) <= BINS or len(numbers) < len(texts):
        return texts
    order = sorted(set(numbers))
    return [str(order.index(number) * BINS // len(order)) for number in numbers]
