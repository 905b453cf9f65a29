"""bench/predict.py runs, which includes its check that all sides give the same captions."""

import json
from pathlib import Path

from tests.test_end_to_end import run

PREDICT = Path(__file__).parents[2] / "bench" / "predict.py"


def test_quick_bench_compares_captions_of_a_folder(tmp_path):
    result = run(PREDICT, "--quick", "--out", tmp_path)
    summary = json.loads((tmp_path / "predict.json").read_text())
    assert {"a loop of one image", "lists, no workers", "predict, 2 workers"} <= summary["ratios"].keys()
    assert summary["ratios"]["a loop of one image"] == 1
    assert all(speed > 0 for speed in summary["images_per_second"].values())
    assert all(len(seconds) == 2 for seconds in summary["seconds"].values())
    assert summary["captions"] > 1  # each image counts
    assert "predict.json" in result.stdout
