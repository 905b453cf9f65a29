"""Merge the reports of several trials into their means and spreads."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from prefixvlm.metrics.bootstrap import bootstrap_interval

Trial = tuple[Mapping[str, dict[str, Any]], Mapping[str, Sequence[Any]]]  # reports and predictions, by task


def merge_trials(trials: Sequence[Trial]) -> tuple[dict[str, dict[str, Any]], dict[str, Sequence[Any]]]:
    """Return one report for each task, and the predictions of the first trial.

    A single trial's report stays as it is. Of several, a score is the mean and `spread` its standard deviation over
    trials. An item's score is its mean over trials, and the interval a bootstrap of these; for a score of the whole set
    it is the mean of the trials' intervals.
    """
    if not trials:
        return {}, {}
    reports, predictions = trials[0]
    if len(trials) == 1:
        return dict(reports), dict(predictions)
    merged = {name: _merge([each[name] for each, _ in trials], predictions[name]) for name in reports}
    return merged, dict(predictions)


def _merge(reports: Sequence[dict[str, Any]], predictions: Sequence[Any]) -> dict[str, Any]:
    # A class that a trial did not even predict has no score there.
    names = [name for name in reports[0]["scores"] if all(name in report["scores"] for report in reports)]
    trials = {name: [report["scores"][name] for report in reports] for name in names}
    items = {
        id: {name: statistics.fmean(report["items"][id][name] for report in reports) for name in scores}
        for id, scores in reports[0]["items"].items()
    }
    keys = {p.id: p.key for p in predictions}
    intervals = {}
    for name in names:
        if name not in reports[0]["intervals"]:
            continue
        chosen = [id for id in items if name in items[id]]
        if chosen:
            intervals[name] = bootstrap_interval([items[id][name] for id in chosen], [keys[id] for id in chosen])
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
    }
