"""bench/run.py runs, which includes its checks that both sides give the same losses and captions."""

import json
import subprocess
import sys
from pathlib import Path

RUN = Path(__file__).parents[2] / "bench" / "run.py"


def test_quick_bench_writes_a_summary(tmp_path):
    command = [sys.executable, RUN, "--quick", "--out", tmp_path / "bench"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
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
    result = subprocess.run([sys.executable, RUN, "--rounds", "1"], capture_output=True, text=True)
    assert result.returncode == 2
    assert "--rounds is 1" in result.stderr
