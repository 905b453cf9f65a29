"""Merge the reports of several trials into their means and spreads."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prefixvlm.metrics.bootstrap import bootstrap_interval

Trial = tuple[Mapping[str, dict[str, Any]], Mapping[str, Sequence[Any]]]  # reports and predictions, by task


def merge_trials(trials: Sequence[Trial]) -> tuple[dict[str, dict[str, Any]], dict[str, Sequence[Any]]]:
    """Return one report for each task, and the predictions of the first trial.

    The report of a single trial is unchanged. Of several, `scores` are means and `spread` standard deviations, and
    the score of an item is its mean. Intervals are a bootstrap of these item means or, for scores of the whole set, the
    means of the intervals of the trials.
    """
    if not trials:
        return {}, {}
    reports, predictions = trials[0]
    if len(trials) == 1:
        return dict(reports), dict(predictions)
    merged = {name: _merge([each[name] for each, _ in trials], predictions[name]) for name in reports}
    return merged, dict(predictions)


def _merge(reports: Sequence[dict[str, Any]], predictions: Sequence[Any]) -> dict[str, Any]:
    # A trial has no score of a class that it never predicted.
    names = [name for name in reports[0]["scores"] if all(name in report["scores"] for report in reports)]
    trials = {name: [report["scores"][name] for report in reports] for name in names}
    items = {
        name: {id: statistics.fmean(report["items"][name][id] for report in reports) for id in by_id}
        for name, by_id in reports[0]["items"].items()
        if name in names
    }
    keys = {p.id: p.key for p in predictions}  # the bootstrap draws images, whose questions are right or wrong together
    intervals = {}
    for name in names:
        if name not in reports[0]["intervals"]:
            continue
        if name in items:
            intervals[name] = bootstrap_interval([*items[name].values()], [keys[id] for id in items[name]])
        else:
            ends = zip(*(report["intervals"][name] for report in reports if name in report["intervals"]), strict=True)
            low, high = (statistics.fmean(each) for each in ends)
            intervals[name] = (low, high)
    return {
        **reports[0],
        "scores": {name: statistics.fmean(values) for name, values in trials.items()},
        "spread": {name: statistics.stdev(values) for name, values in trials.items()},
        "trials": trials,
        "intervals": intervals,
        "items": items,
        "resamples": {
            name: np.mean([report["resamples"][name] for report in reports], axis=0)
            for name in names
            if all(name in report["resamples"] for report in reports)
        },
    }
