"""Contrastive pretraining on coloured images, through Lightning's Trainer, into a folder that the encoder reads."""

import copy
import json
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from prefixvlm.data.sample import Sample
from prefixvlm.encoder.openclip import OpenClipEncoder
from prefixvlm.training.contrastive import ContrastiveModule
from prefixvlm.training.optim import Optim

COLOURS = ["red", "green", "blue", "yellow"]
CLASSES = [f"a {colour} square" for colour in COLOURS]
TEXT = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "head_width": 16, "layers": 1},
    "text_cfg": TEXT,
}
pytestmark = pytest.mark.filterwarnings(
    r"ignore:.*isinstance\(treespec, LeafSpec\)",  # Lightning 2.6 with torch 2.15
)


def sample(colour: str, *more: str) -> Sample:
    return Sample(f"key-{colour}", Image.new("RGB", (16, 16), colour), (f"a {colour} square", *more))


class Batches:
    """A loader; Lightning takes a list for several loaders."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


def module_of(out: Path, **keywords: Any) -> ContrastiveModule:
    torch.manual_seed(0)
    optim = Optim(torch.optim.AdamW, lr=3e-3, warmup_steps=0.1)
    return ContrastiveModule(copy.deepcopy(keywords.pop("model", MODEL)), str(out), optim, **keywords)


def fit(module: ContrastiveModule, max_steps: int, tmp_path: Path, **keywords: Any) -> Trainer:
    batch = module.collates.train([sample(colour) for colour in COLOURS], random.Random(0))
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=max_steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
        **keywords,
    )
    trainer.fit(module, Batches([batch] * max_steps), Batches([batch]))
    return trainer


def test_the_validation_loss_counts_each_sample_once(tmp_path: Path) -> None:
    module = module_of(tmp_path / "clip").eval()
    total = 0.0
    with torch.no_grad():
        for colours in (COLOURS[:3], COLOURS[3:]):
            batch = module.collates.train([sample(colour) for colour in colours], random.Random(0))
            module.validation_step(batch, 0)
            images, texts, scale = (each.double() for each in module.model(*batch[:2]))
            logits = scale * images @ texts.T
            both = -(logits.log_softmax(0) + logits.log_softmax(1)).diagonal() / 2
            total += both.sum().item()
    assert module.val_loss.compute().item() == pytest.approx(total / 4, rel=1e-4)


def test_it_learns_and_the_encoder_reads_its_folder(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "clip"
    module = module_of(out, classes=CLASSES)
    assert module.collates.train is not None
    trainer = fit(module, 30, tmp_path)
    assert trainer.callback_metrics["val/zero_shot_accuracy"] == 100
    assert trainer.callback_metrics["val/loss"] < 0.7  # ln 4 = 1.39 before training
    assert sorted(path.name for path in out.parent.iterdir()) == ["clip"]
    assert json.loads((out / "open_clip_config.json").read_text())["model_cfg"] == MODEL

    encoder = OpenClipEncoder(f"local-dir:{out}")
    pixel_values = torch.stack([encoder.transform(sample(colour).image) for colour in COLOURS])
    with torch.no_grad():
        expected = module.model.eval().encode_image(pixel_values)
    torch.testing.assert_close(encoder(pixel_values)[:, 0], expected)


def test_a_second_fit_replaces_the_folder_and_a_broken_one_does_not(tmp_path: Path) -> None:
    out = tmp_path / "clip"
    fit(module_of(out), 1, tmp_path)
    first = (out / "open_clip_model.safetensors").read_bytes()
    broken = module_of(out)
    broken.training_step = lambda *_args: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        fit(broken, 1, tmp_path)
    assert (out / "open_clip_model.safetensors").read_bytes() == first
    fit(module_of(out), 2, tmp_path)
    assert (out / "open_clip_model.safetensors").read_bytes() != first
    assert [path.name for path in tmp_path.iterdir()] == ["clip"]


def test_the_loss_is_the_mean_of_both_directions(tmp_path: Path) -> None:
    module = module_of(tmp_path / "clip")
    module.trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
    module.setup("fit")
    module.log = lambda *_args, **_keywords: None  # type: ignore[method-assign]
    batch = module.collates.train([sample(colour) for colour in COLOURS], random.Random(0))
    images, texts, scale = module.model(batch[0], batch[1])
    logits = (scale * images @ texts.T).double()
    right = logits.diag()
    expected = ((logits.exp().sum(0).log() - right).mean() + (logits.exp().sum(1).log() - right).mean()) / 2
    assert module.training_step(batch, 0).item() == pytest.approx(expected.item(), rel=1e-5)


def test_collate_draws_a_caption_and_survives_pickling(tmp_path: Path) -> None:
    module = module_of(tmp_path / "clip", classes=CLASSES)
    collate = pickle.loads(pickle.dumps(module.collates.train))
    samples = [
        sample("red", "a square", "something red"),
        sample("blue"),
        Sample("k", sample("red").image, ("a thing",)),
    ]
    pixel_values, tokens, classes = collate(samples, random.Random(0))
    assert pixel_values.shape == (3, 3, 16, 16)
    assert tokens.shape == (3, 8)
    assert classes.tolist() == [0, 2, -1]
    again = collate(samples, random.Random(0))
    assert all(torch.equal(a, b) for a, b in zip((pixel_values, tokens, classes), again, strict=True))
    drawn = {tuple(collate(samples, random.Random(seed))[1][0].tolist()) for seed in range(20)}
    assert len(drawn) == 3


def test_a_resnet_is_built_from_another_model_cfg(tmp_path: Path) -> None:
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 4, "head_width": 32}
    fit(module_of(tmp_path / "clip", model={**MODEL, "vision_cfg": vision}), 1, tmp_path)
    encoder = OpenClipEncoder(f"local-dir:{tmp_path / 'clip'}", features="patch", layer=3)
    assert (encoder.num_features, encoder.feature_width) == (4, 64)


def test_errors_name_the_key(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(ValueError, match=r"module\.out is .*photos.*set module\.out"):
        module_of(tmp_path / "photos")
    with pytest.raises(ValueError, match=r"module\.model is not an open_clip model_cfg.*widht"):
        module_of(tmp_path / "clip", model={**MODEL, "text_cfg": {"widht": 3}})
    module = module_of(tmp_path / "clip")
    with pytest.raises(ValueError, match=r"sample key-9 has no caption.*data\.shards"):
        module.collates.train([Sample("key-9", Image.new("RGB", (16, 16)))], random.Random(0))
    with pytest.raises(ValueError, match=r"no validation image has one of module\.classes"):
        fit(module_of(tmp_path / "clip", classes=["a dog"]), 1, tmp_path)
