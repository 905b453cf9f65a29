"""Readers of checkpoints, of command lines with their files of configuration, and of the folders of sweeps."""

import io
import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch
from zlib import crc32

import torch
import yaml
from omegaconf import OmegaConf

from prefixvlm import config
from prefixvlm.command_line.check import check_command
from prefixvlm.evaluation.config import evaluation_config
from prefixvlm.options import component_check
from prefixvlm.options.components import axis_of
from prefixvlm.strict_json import read_json
from prefixvlm.sweep.report import compare, text_report, write_report
from prefixvlm.training.checkpoint import KEY
from prefixvlm.training.checkpoint_file import load
from prefixvlm.training.run_history import history
from tests.data.conftest import png, write_tar
from tests.fuzz.data_targets import Files, Target

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"


def _make_checkpoint(folder: Path) -> Files:
    """A real checkpoint, with less of its tensors, so that a case takes less."""
    checkpoint = torch.load(ROOT / "tests" / "old_checkpoints" / "captioning_vqa.ckpt", weights_only=True)
    state = {name: tensor[:1].clone() for name, tensor in checkpoint["state_dict"].items()}
    kept = {name: value for name, value in checkpoint.items() if name not in ("optimizer_states", "loops")}
    buffer = io.BytesIO()
    torch.save({**kept, "state_dict": state}, buffer)
    return {"x.ckpt": buffer.getvalue()}


def _read_checkpoint(folder: Path, file: str) -> int:
    checkpoint = load(folder / "x.ckpt")
    history(checkpoint)
    options = {"benchmark": None, "task": None, "shards": str(folder), "split": None, "limit": None, "batch_size": None}
    for axis, node in evaluation_config(options, checkpoint[KEY]["config"]).items():
        _check_components(axis, node)
    return 0


def _check_components(axis: str, node: Any) -> None:
    """Check a part of a configuration as `make` does for the parts that it builds."""
    if axis_of(axis):
        component_check.check(axis, node)
    elif isinstance(node, dict):  # of components by name, as callbacks
        for name, each in node.items():
            component_check.check(f"{axis}.{name}", each)


TRAIN = """train
data.shards=shards
data.num_workers=0
encoder.model_name=local-dir:clip
optim.lr=0.01
mapper=transformer
mapper.prefix_length=4
trainer.max_steps=7
seed=3
experiment=mine
--config-dir=mine
logger=csv"""
SWEEP = """train
-m
data.shards=shards
encoder.model_name=local-dir:clip
seed=1,2
mapper=linear,mlp
mapper.prefix_length=choice(4,8)
--optim.lr=0.1"""
EVAL = "eval\nckpt=x.ckpt\nshards=shards\nlimit=10\nfew_shot.shots=1\nblind=true"
EXPERIMENT = """# @package _global_
defaults:
- override /mapper: transformer
- override /task: vqa
mapper: {num_layers: 2, prefix_length: 4}
trainer: {max_steps: 10, precision: 32-true}
optim: {lr: 0.001}
monitor: val/loss
seed: 5
"""


def _make_commands(folder: Path) -> Files:
    (folder / "shards").mkdir()
    for split in ("train", "val", "test"):
        write_tar(folder / "shards" / f"{split}-0.tar", [("a.png", png()), ("a.txt", b"a dog")])
    (folder / "clip").mkdir()
    for name in ("x.ckpt", "clip/open_clip_config.json", "clip/a.safetensors"):
        (folder / name).touch()
    files = {"train.words": TRAIN, "sweep.words": SWEEP, "eval.words": EVAL, "mine/experiment/mine.yaml": EXPERIMENT}
    return {name: text.encode() for name, text in files.items()}


def _read_commands(folder: Path, file: str) -> int:
    config.register()
    before = sorted(folder.rglob("*"))
    path = folder / (file if file.endswith(".words") else "train.words")
    program, *words = path.read_bytes().replace(b"\0", b"").split(b"\n")
    arguments = [f"{os.fsdecode(program)}.py", *map(os.fsdecode, words)]
    with patch.object(sys, "argv", arguments), patch.dict(os.environ, HYDRA_FULL_ERROR="1"):
        try:
            check_command(CONF)
        except SystemExit as end:  # --help
            if end.code:
                raise AssertionError(f"exit code {end.code}") from end
    assert sorted(folder.rglob("*")) == before, "a check has written something"
    return 0


def _make_options(_: Path) -> Files:
    cfg = config.compose_run(["task=[captioning,vqa]", "logger=csv", "mapper=transformer"])
    return {"options.json": json.dumps(OmegaConf.to_container(cfg)).encode()}


def _read_options(folder: Path, file: str) -> int:
    """As check_command does, before torch is imported, and as `make` does, after it."""
    options = read_json(folder / "options.json", dict[str, Any], "a configuration")
    config.check_ranges(options)
    for axis, node in options.items():
        component_check.check(axis, node, before_imports=True)
        _check_components(axis, node)
    return 0


def _make_sweep(folder: Path) -> Files:
    metrics = "step,train/loss,val/loss,test/cider\n1,3,,\n2,2.5,2.25,\n2,,,0.5\n"
    of_jobs = {
        ".hydra/overrides.yaml": yaml.safe_dump(["data=easy_vqa", "mapper=mlp", "seed=1", "optim.lr=0.001"]),
        ".hydra/config.yaml": yaml.safe_dump({"monitor": "val/loss", "monitor_mode": "min", "objectives": None}),
        "objective.json": json.dumps({"value": 1.5, "pruned": False, "higher_is_better": {"test/cider": True}}),
        "csv/metrics.csv": metrics,
        "job.log": "step 1\nerror: lm is 'gpt3'; accepted are gpt2\n  a note\n",
    }
    whole = {**of_jobs, ".hydra/overrides.yaml": "- mapper=linear\n- seed=2\n"}
    for name, text in whole.items():
        (folder / "0" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "0" / name).write_text(text)
    return {f"1/{name}": text.encode() for name, text in of_jobs.items()}


def _read_sweep(folder: Path, file: str) -> int:
    sweep = compare(folder)
    text_report(sweep).encode(errors="strict")
    if crc32((folder / file).read_bytes()) % 8 == 0:  # it takes a second
        write_report(sweep, folder / "report.html")
        (folder / "report.html").unlink()
    return len(sweep.problems)


TARGETS = {
    "checkpoint": Target(_make_checkpoint, _read_checkpoint),
    "options": Target(_make_options, _read_options),
    "commands": Target(_make_commands, _read_commands),
    "sweep": Target(_make_sweep, _read_sweep),
}
