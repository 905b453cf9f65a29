"""Recipes of the literature with small parts in place of large ones: each trains and predicts."""

import pytest

from prefixvlm.training.checkpoint_file import load
from tests.callbacks.test_last_checkpoint import equal
from tests.test_end_to_end import CLIP, easy_shards, run, tiny_clip, tiny_gpt2

VIT = {**CLIP, "vision_cfg": {**CLIP["vision_cfg"], "layers": 2}}
TRAINED = {  # parts of the model whose weights the checkpoint holds
    "clipcap_mlp": {"mapper"},
    "clipcap_transformer_tuned": {"mapper", "lm"},
    "frozen": {"encoder", "mapper"},
    "frozen_blind": {"encoder", "mapper"},
    "limber_linear": {"mapper"},
    "magma": {"encoder", "mapper", "lm"},
    "fromage": {"mapper", "heads"},
    "llava_stage1": {"mapper"},
    "qformer": {"mapper"},
    "photos": {"mapper"},
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipes")
    return [
        f"data.shards={easy_shards(folder)}", "encoder=clip_tiny",
        f"encoder.model_name=local-dir:{tiny_clip(folder / 'clip', config=VIT)}", "encoder.pretrained=null",
        "encoder.image_size=null", "lm=gpt2", f"lm.name={tiny_gpt2(folder / 'gpt2')}", "lm.dtype=float32",
        "data.batch_size=4", "data.limit_val_predictions=2", "trainer.max_steps=3", "trainer.val_check_interval=3",
        "callbacks=default", "logger=csv", "test=false",
    ]  # fmt: skip


@pytest.mark.parametrize("recipe", TRAINED)
def test_a_recipe_trains_the_stated_parts(parts, recipe, tmp_path):
    small = {
        "qformer": ["mapper.width=32", "mapper.num_heads=2", "mapper.num_layers=1"],
        "photos": ["trainer.check_val_every_n_epoch=1", "lm.start_token='<eos>'"],
    }.get(recipe, [])
    run("train.py", f"experiment={recipe}", *parts, *small, f"hydra.run.dir={tmp_path}")
    checkpoint = load(tmp_path / "checkpoints" / "best.ckpt")
    assert checkpoint["global_step"] == 3
    assert {name.split(".")[1] for name in checkpoint["state_dict"]} == TRAINED[recipe]
    assert (tmp_path / "csv" / "metrics.csv").read_text().count("\n") > 3


def test_a_run_that_ends_before_its_first_validation_has_a_best_checkpoint(parts, tmp_path):
    options = ["experiment=clipcap_mlp", *parts, "trainer.max_steps=2", "trainer.val_check_interval=1.0"]
    run("train.py", *options, f"hydra.run.dir={tmp_path}")
    folder = tmp_path / "checkpoints"
    best, last = load(folder / "best.ckpt"), load(folder / "last.ckpt")
    assert equal(best["state_dict"], last["state_dict"])
    (folder / "best.ckpt").write_bytes(b"the best of a longer run")
    run("train.py", *options, f"hydra.run.dir={tmp_path}")
    assert (folder / "best.ckpt").read_bytes() == b"the best of a longer run"
    result = run("train.py", *options, "task=vqa", f"hydra.run.dir={tmp_path}", code=2)
    assert "task.captioning has options, but task captioning is not chosen; set ~task.captioning" in result.stderr
    result = run("train.py", *options, "task=vqa", "~task.captioning", f"hydra.run.dir={tmp_path}", code=2)
    assert "the run in this folder trains task captioning, not vqa; set hydra.run.dir to another" in result.stderr
