"""Stages run once, in order, and continue after the last finished one."""

import json
import sys

import pytest

from prefixvlm.resumable_stages import read_json, run_stages, write_json


def writes(path, text):
    return [sys.executable, "-c", f"open({str(path)!r}, 'a').write({text!r})"]


def test_each_stage_runs_once_and_a_failed_one_again(tmp_path, capsys):
    log, out = tmp_path / "log", tmp_path / "out"
    fails = [sys.executable, "-c", "import sys; sys.exit(3)"]
    stages = {"one": writes(log, "1"), "two": fails, "three": writes(log, "3")}
    with pytest.raises(SystemExit) as stop:
        run_stages(stages, out, "make it")
    assert stop.value.code == 3
    assert "Stage two ended with code 3; `make it` continues from there." in capsys.readouterr().err
    assert set(run_stages({**stages, "two": writes(log, "2")}, out, "make it")) == {"one", "two", "three"}
    assert log.read_text() == "123"
    assert "== 1/3 one (done before)" in capsys.readouterr().out
    assert list(json.loads((out / "stages.json").read_text())) == ["one", "two", "three"]


def test_files_are_written_atomically(tmp_path):
    assert read_json(tmp_path / "x.json") == {}
    write_json(tmp_path / "x.json", {"a": 1})
    assert read_json(tmp_path / "x.json") == {"a": 1}
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"a": object()})
    assert read_json(tmp_path / "x.json") == {"a": 1}
