"""Differences of the scores of a model to those of a baseline, each with its interval and p-value."""

import math
from collections.abc import Mapping
from typing import Any

from prefixvlm.metrics.paired import paired_bootstrap, paired_test


def differences(
    report: Mapping[str, Any], baseline: Mapping[str, Any], keys: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Return `difference` (model minus baseline), `interval` of 95 % and `p_value` by score.

    report, baseline: of one task, with `items` and `resamples` as report_of makes them. keys: the image of each
    prediction by its id. Scores without an interval, such as a number of words, are left out.
    """
    found = {}
    for name, value in report["scores"].items():
        if name not in baseline["scores"]:
            continue
        ours, theirs = (each["items"].get(name) for each in (report, baseline))
        if ours and theirs and ours.keys() == theirs.keys():
            test = paired_test([theirs[id] for id in ours], [*ours.values()], [keys[id] for id in ours])
            interval, p_value = test.interval, test.p_value
        elif all(name in each["resamples"] for each in (report, baseline)):
            resamples = baseline["resamples"][name], report["resamples"][name]
            interval, p_value = paired_bootstrap(baseline["scores"][name], value, *resamples)
        else:
            continue
        difference = value - baseline["scores"][name]
        if all(map(math.isfinite, (difference, *interval))):  # JSON has no NaN
            found[name] = {"difference": difference, "interval": list(interval), "p_value": p_value}
    return found
