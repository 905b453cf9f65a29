"""examples/continual.py: its commands compose, and its path from corrections to training steps, with a small model."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from prefixvlm import cli, config
from prefixvlm.config import compose_run
from prefixvlm.data.datamodule import ShardDataModule
from prefixvlm.data.shards.manifest import read_manifest
from prefixvlm.data.shards.write import write_shards
from prefixvlm.data.sources.feedback import read_corrections
from prefixvlm.inference.captioner import Captioner
from prefixvlm.resumable_stages import write_json
from tests.data.conftest import raw_samples
from tests.data.test_sources import read
from tests.inference.test_predictor import write_checkpoint
from tests.training.test_module import pytestmark, trainer_of  # noqa: F401  # known warnings of Lightning

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def continual():
    return runpy.run_path(str(ROOT / "examples" / "continual.py"))


@pytest.fixture
def options(continual):
    return continual["parser"]().parse_args(["--steps", "7"])


def command(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["prefixvlm", *map(str, words)])
    cli.main()


def test_every_command_composes(continual, options):
    stages = continual["stages"](options)
    trained = {name: compose_run(command[2:]) for name, command in stages.items() if name.startswith("train_")}
    assert set(trained["train_mixture"].data.shards) == {"easy_vqa", "corrections"}
    assert trained["train_corrections_only"].data.shards == "outputs/continual/feedback"
    assert all(cfg.data.epoch_samples == 7 * 32 and cfg.init_from == options.ckpt for cfg in trained.values())
    config.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        evaluated = {name: compose("eval", words[2:]) for name, words in stages.items() if words[1] == "eval.py"}
    assert len(evaluated) == 6
    assert {cfg.shards for cfg in evaluated.values()} == {"data/easy-vqa", "outputs/continual/new_shards"}


def test_corrections_become_shards_that_a_run_goes_on_from(continual, tmp_path, monkeypatch, capsys):
    module = write_checkpoint(tmp_path)
    model = Captioner(tmp_path / "x.ckpt")
    continual["collect"](model, tmp_path / "corrections", 40)
    corrections, _ = read_corrections(tmp_path / "corrections")
    captions = [each for each in corrections if not each.question]
    assert 10 < len(captions) < 30 < len(corrections)
    assert captions[0].prediction == model.caption(tmp_path / "corrections" / captions[0].image)
    assert all(each.correction.split()[-1] in continual["SHAPES"] for each in captions)

    command(monkeypatch, "shards", "feedback", "--source", tmp_path / "corrections", "--val-share", 0.2,
            "--workers", 1, "--out", tmp_path / "feedback")  # fmt: skip
    continual["write_test"](tmp_path / "new", 5)
    command(monkeypatch, "shards", "table", "--table", tmp_path / "new" / "table.jsonl", "--images", tmp_path / "new",
            "--workers", 1, "--out", tmp_path / "new_shards")  # fmt: skip
    capsys.readouterr()
    manifest = read_manifest(tmp_path / "feedback")
    assert manifest.num_samples("train") + manifest.num_samples("val") == 40
    test = read(tmp_path / "new_shards", "test")
    assert all(len(each.captions) == 1 and len(each.questions) == 2 for each in test)

    before = {name: parameter.clone() for name, parameter in module.model.mapper.named_parameters()}
    with torch.no_grad():
        for parameter in module.model.mapper.parameters():
            parameter.zero_()
    module.start_from(str(tmp_path / "x.ckpt"))
    for name, parameter in module.model.mapper.named_parameters():
        assert torch.equal(parameter, before[name])
    old = {split: raw_samples(12, split) for split in ("train", "val")}
    write_shards(old, tmp_path / "old", "a test", "none")
    shards = {name: {"shards": str(tmp_path / name), "weight": 1} for name in ("old", "feedback")}
    data = ShardDataModule(shards, 8, epoch_samples=48, limit_val_predictions=0, collates=module.collates)
    trainer_of(max_epochs=1).fit(module, data)
    assert data.num_bad_samples == 0
    assert all(not torch.equal(parameter, before[name]) for name, parameter in module.model.mapper.named_parameters())


def test_the_table_has_the_numbers_of_the_files(continual, tmp_path, capsys):
    for data, shift in (("old", 0), ("new", 5)):
        tasks = {
            "captioning": {"scores": {"exact_match": 10.0 + shift}},
            "vqa": {"scores": {"accuracy": 99.0, "accuracy_what": 20.0 + shift}},
        }
        (tmp_path / data).mkdir()
        write_json(tmp_path / data / "metrics.json", {"tasks": tasks})
    assert continual["scores"](tmp_path) == [10, 15, 20, 25]
    continual["print_table"]({"before": continual["scores"](tmp_path)})
    assert "| before | 10.0 | 15.0 | 20.0 | 25.0 |" in capsys.readouterr().out
