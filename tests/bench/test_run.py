"""bench/run.py runs, which includes its checks that both sides give the same losses and captions."""

import json
from pathlib import Path

from tests.test_end_to_end import run

RUN = Path(__file__).parents[2] / "bench" / "run.py"


def test_quick_bench_writes_a_summary(tmp_path):
    result = run(RUN, "--quick", "--out", tmp_path / "bench")
    summary = json.loads((tmp_path / "bench" / "summary.json").read_text())
    assert max(summary["loss_difference"].values()) < 1e-4
    assert summary["identical_captions"] > 0
    jobs = {"step_transformer", "step_transformer_by_length", "step_mlp", "step_mlp_by_length", "greedy", "beam5"}
    assert jobs <= set(summary["ratios"])
    assert all(ratio > 0 for ratio in summary["ratios"].values())
    assert all(0 < share < 1.5 for share in summary["gemm_share"].values())
    for time in summary["times"].values():
        assert len(time["seconds"]) == summary["sizes"]["rounds"]
        assert time["quartiles"][0] <= time["median"] <= time["quartiles"][1]
    assert "step_mlp" in result.stdout
    assert "summary.json" in result.stdout


def test_too_few_rounds_are_an_error():
    assert "--rounds is 1" in run(RUN, "--rounds", "1", code=2).stderr
