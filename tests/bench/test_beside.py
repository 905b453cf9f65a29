"""bench/beside.py runs, which includes its checks that both sides give the same losses and texts."""

import json
import os
from pathlib import Path

import pytest

from tests.test_end_to_end import run

BESIDE = Path(__file__).parents[2] / "bench" / "beside.py"
GENERATE = ["generate greedy", "generate beam 5", "generate greedy, 1 image", "generate beam 5, 1 image"]


def test_texts_are_those_of_generate(tmp_path):
    out = run(BESIDE, "--quick", "--rounds", "1", "--out", tmp_path, CLIPCAP="").stdout
    summary = json.loads((tmp_path / "beside.json").read_text())
    assert list(summary["rows"]) == GENERATE
    for row in summary["rows"].values():
        assert row["ratio"] == pytest.approx(row["other_s"] / row["ours_s"])
        assert row["gflops"] > 0
    # One image and 13 tokens: 8 layers of the mapper read 20 rows of 192, 2 layers of GPT-2 10 rows and 12 more.
    mapper, gpt2 = 640 * 1920 + 20 * 8 * 8 * 192**2, (10 + 12) * 2 * 12 * 192**2 + 13 * 192 * 1009
    assert summary["rows"][GENERATE[2]]["gflops"] == pytest.approx(2e-9 * (mapper + gpt2))
    assert "Without CLIPCAP=FOLDER" in out


@pytest.mark.skipif(not os.environ.get("CLIPCAP"), reason="CLIPCAP names no folder of ClipCap's repository")
def test_losses_and_texts_are_those_of_clipcap(tmp_path):
    run(BESIDE, "--quick", "--rounds", "1", "--out", tmp_path, CLIPCAP=os.environ["CLIPCAP"])
    assert len(json.loads((tmp_path / "beside.json").read_text())["rows"]) == len(GENERATE) + 6


def test_wrong_folders_and_parts_are_errors(tmp_path):
    (tmp_path / "train.py").write_text("from nothing import x")
    assert "which has no predict.py" in run(BESIDE, code=2, CLIPCAP=str(tmp_path)).stderr
    (tmp_path / "predict.py").write_text("")
    assert "train.py cannot be imported (No module" in run(BESIDE, code=2, CLIPCAP=str(tmp_path)).stderr
    assert "set CLIPCAP to a folder" in run(BESIDE, "--only", "steps", code=2, CLIPCAP="").stderr
    assert "--rounds is 0" in run(BESIDE, "--rounds", "0", code=2).stderr
