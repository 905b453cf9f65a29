"""examples/demo_photos.py: its photographs become shards, its commands compose, and it prints every caption."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from prefixvlm import cli, config
from prefixvlm.config import compose_run
from prefixvlm.data.shards.manifest import read_manifest
from prefixvlm.resumable_stages import write_json
from tests.encoder.test_packaged import needs_packages

ROOT = Path(__file__).parents[2]
pytestmark = needs_packages


@pytest.fixture
def demo(tmp_path, monkeypatch):
    found = runpy.run_path(str(ROOT / "examples" / "demo_photos.py"))
    monkeypatch.chdir(tmp_path)
    return found


def test_the_photographs_become_a_test_split(demo, monkeypatch):
    demo["write_photos"]()
    monkeypatch.setattr(sys, "argv", ["prefixvlm", *demo["STAGES"]["photographs"][3:]])
    cli.main()
    manifest = read_manifest(demo["OUT"] / "shards")
    assert {split: manifest.num_samples(split) for split in manifest.splits} == {"test": len(demo["PHOTOS"])}


def test_the_commands_compose(demo):
    cfg = compose_run(demo["STAGES"]["train"][2:])
    assert cfg.encoder.features_of == "outputs/demo_photos/class-names"
    assert not cfg.test
    config.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert compose("eval", demo["STAGES"]["evaluate"][2:]).shards == "outputs/demo_photos/shards"


def test_it_prints_each_caption_beside_its_reference(demo, tmp_path, monkeypatch, capsys):
    lines = [{"key": "coffee", "prediction": "an espresso", "references": ["a cup of espresso on a saucer"]}]
    demo["OUT"].mkdir(parents=True)
    (demo["OUT"] / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_json(demo["OUT"] / "stages.json", dict.fromkeys(demo["STAGES"], 1.5))
    monkeypatch.setattr("os.chdir", lambda path: None)
    demo["main"]()
    out = capsys.readouterr().out
    assert "coffee              an espresso" in out
    assert "(a cup of espresso on a saucer)" in out
    assert f"{1.5 * len(demo['STAGES']):.0f} seconds" in out
