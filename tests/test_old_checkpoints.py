"""Checkpoints of the commit before the folders changed are evaluated, used and started from (old_checkpoints/)."""

import json
import shutil

import pytest
from lightning.pytorch import Trainer
from PIL import Image

from prefixvlm.build import build_data, rebuild
from prefixvlm.training.checkpoint import KEY
from prefixvlm.training.checkpoint_file import load
from tests.test_end_to_end import ROOT, SIZES, easy_shards, run

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning"),  # Lightning with torch 2.15
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode"),
]
# Names, with the validation losses that the runs logged at their end.
LOSSES = {"captioning_vqa": 6.909224, "classification_lora_ema": 1.229963, "grounding": 7.052228}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the files lay when they were written: beside old_lm and shards."""
    folder = tmp_path_factory.mktemp("old") / "run"
    shutil.copytree(ROOT / "tests" / "old_checkpoints", folder)
    easy_shards(folder)
    Image.new("RGB", (64, 64), (30, 60, 200)).save(folder / "blue.png")
    return folder


@pytest.mark.parametrize("name", LOSSES)
def test_the_validation_loss_is_what_it_was(folder, name, monkeypatch):
    """Through the whole model, of the tensors that the file holds: of the run with averages, those."""
    monkeypatch.chdir(folder)
    checkpoint = load(f"{name}.ckpt")
    config = checkpoint[KEY]["config"]
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, use_distributed_sampler=False)
    module = rebuild(config, checkpoint)
    trainer.validate(module, build_data(config, module), verbose=False)
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(LOSSES[name], rel=1e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_eval_scores_it(folder, name):
    run(ROOT / "eval.py", f"ckpt={name}.ckpt", f"out=eval/{name}", cwd=folder)
    result = json.loads((folder / "eval" / name / "metrics.json").read_text())
    assert set(result["tasks"]) == set(name.removesuffix("_lora_ema").split("_"))
    for scored in result["tasks"].values():
        assert scored["num_images"] == SIZES["test"]
        assert scored["scores"].keys() == scored["blind"].keys()


def test_predict_uses_it(folder):
    predict = ["-m", "prefixvlm.cli", "predict", "blue.png", "--ckpt"]
    answer = run(*predict, "captioning_vqa.ckpt", "--question", "what is it?", cwd=folder).stdout
    assert answer.startswith("blue.png\t")
    name, share = run(*predict, "classification_lora_ema.ckpt", cwd=folder).stdout.split("\t")[1].split()
    assert name in ("circle", "rectangle", "triangle")
    assert 1 / 3 <= float(share) <= 1
    edges = run(*predict, "grounding.ckpt", "--phrase", "circle", cwd=folder).stdout.split("\t")[1].split()
    assert len(edges) == 4
    assert all(0 <= int(edge) <= 64 for edge in edges)


def test_a_new_run_starts_from_it(folder):
    encoder = ["dinov2_s14", "encoder.model_name=test_vit.r160_in1k", "encoder.pretrained=random"]
    parts = [f"encoder={encoder[0]}", *encoder[1:], "encoder.dtype=float32", "lm=gpt2", "lm.name=old_lm"]
    changes = ["lm.weights=random", "lm.dtype=float32", "mapper=linear", "mapper.prefix_length=2", "data.shards=shards"]
    options = ["data.batch_size=8", "trainer.max_steps=1", "logger=csv", "test=false", "hydra.run.dir=new"]
    run(ROOT / "train.py", *parts, *changes, *options, "init_from=captioning_vqa.ckpt", cwd=folder)
    (parent,) = load(folder / "new" / "checkpoints" / "last.ckpt")[KEY]["lineage"]
    assert (parent["checkpoint"], parent["step"]) == ("captioning_vqa.ckpt", 4)
