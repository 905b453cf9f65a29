"""bench/scale.py runs: its simulation, and two processes that read shards over HTTP."""

import json
from pathlib import Path

from tests.test_end_to_end import run

SCALE = Path(__file__).parents[2] / "bench" / "scale.py"


def test_quick_simulation_and_two_processes(tmp_path):
    run(SCALE, "--quick", "--out", tmp_path / "scale.json")
    result = json.loads((tmp_path / "scale.json").read_text())
    for row in result["plans"]:
        assert row["doubled"] == 0
        assert row["counted"] + row["left_out"] == row["samples"]
        assert row["left_out"] < 32 * row["ranks"]
        assert row["node_fetches_percent"] <= row["its_share_percent"] + 5
    (http,) = result["http"]
    assert http["doubled"] == 0
    assert http["read"] == http["samples"]
    assert len(set(http["batches"])) == 1
    assert all(50 - 10 < share < 50 + 10 for share in http["fetched_percent_by_node"])
