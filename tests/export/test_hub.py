"""`prefixvlm export --to hub`: a folder that has the predictions of its checkpoint, and a card about it."""

import shutil

import pytest
import torch
from PIL import Image

import prefixvlm
from prefixvlm.export.hub import export_hub
from prefixvlm.training.checkpoint_file import load
from tests.inference.test_predictor import write_checkpoint
from tests.test_end_to_end import ROOT

OLD = ROOT / "tests" / "old_checkpoints"  # of LoRA with layer norms, heads and averages, too


@pytest.fixture
def old(tmp_path, monkeypatch):
    """The folder of real checkpoints, in which their paths start."""
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


def images():
    picture = Image.new("RGB", (70, 50), "red")
    picture.paste((9, 99, 199), (0, 0, 20, 50))
    return [picture, picture.rotate(90, expand=True), Image.new("RGB", (40, 90), "green")]


def answers(model):
    task = next(iter(model.module.tasks.values()))
    texts = ["a circle"] if task.takes == "phrase" else [""]
    found = model.answers_of(task, [("", image) for image in images()], texts)
    return [
        (each.prediction.prediction, model.module.tasks[task.name].probabilities(each.prediction)) for each in found
    ]


@pytest.mark.parametrize("name", ["captioning_vqa", "classification_lora_ema", "grounding"])
def test_a_folder_has_the_tensors_and_the_predictions_of_its_checkpoint(old, name):
    checkpoint = old / f"{name}.ckpt"
    export_hub(checkpoint, old / "out")
    ours, theirs = load(checkpoint), load(old / "out")
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    for key, tensor in ours["state_dict"].items():
        assert tensor.dtype == theirs["state_dict"][key].dtype
        assert torch.equal(tensor, theirs["state_dict"][key]), key
    assert answers(prefixvlm.load(old / "out")) == answers(prefixvlm.load(checkpoint))


def test_a_folder_with_its_frozen_parts_loads_anywhere(tmp_path, monkeypatch):
    made = tmp_path / "made"
    made.mkdir()
    module = write_checkpoint(made)
    line = export_hub(made / "x.ckpt", made / "out", include_frozen=True)
    assert "frozen encoder and lm" in line
    shutil.move(made / "out", tmp_path / "moved")
    expected = prefixvlm.load(made / "x.ckpt").caption(images())
    shutil.rmtree(made)
    monkeypatch.chdir("/")
    model = prefixvlm.load(tmp_path / "moved")
    assert model.caption(images()) == expected
    assert module.identity() == model.module.identity()
    assert str(made) not in (tmp_path / "moved" / "prefixvlm.json").read_text()
