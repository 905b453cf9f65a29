"""`prefixvlm merge` on real runs: the merged model gives the same numbers in prefixvlm and in transformers."""

import hashlib
import json

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefixvlm.batch import Row
from prefixvlm.build import build_merged, build_module
from prefixvlm.convert.merge import merge
from prefixvlm.training.checkpoint import KEY
from prefixvlm.training.checkpoint_file import load
from tests.conftest import tiny_lm
from tests.test_end_to_end import ROOT, parts, run  # noqa: F401

TUNE = {"lora": "tune=[lora,layer_norms]", "all": "tune=all", "adapters": "tune=adapters", "none": "tune=none"}


@pytest.fixture(scope="module")
def checkpoint_of(parts, tmp_path_factory):  # noqa: F811
    paths = {}

    def get(method):
        if method not in paths:
            folder = tmp_path_factory.mktemp("run") / method
            run("train.py", *parts, TUNE[method], "task=captioning", "test=false", f"hydra.run.dir={folder}")
            paths[method] = folder / "checkpoints" / "last.ckpt"
        return paths[method]

    return get


def rebuilt(path):
    checkpoint = load(path)
    module = build_module(OmegaConf.create(checkpoint[KEY]["config"]))
    module.load_trained(checkpoint)
    return module.eval()


def losses(module, images):
    rows = [Row((images[0], "Caption:"), " red"), Row((images[1],), " blue square")]
    return module.model(module.collate(rows))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "all"])
@torch.no_grad()
def test_merged_is_the_same_model_without_tune(method, checkpoint_of, tmp_path, images):
    path, out = checkpoint_of(method), tmp_path / "deep" / "merged"
    run("-m", "prefixvlm.cli", "merge", "--ckpt", path, "--out", out, cwd=tmp_path)
    assert sorted(p.name for p in out.iterdir()) == ["lm", "merged.ckpt"]
    assert [p.name for p in out.parent.iterdir()] == ["merged"]
    checkpoint = load(out / "merged.ckpt")
    config = checkpoint[KEY]["config"]
    assert "tune" not in config
    assert config["lm"]["name"] == str(out / "lm")
    assert all(name.startswith("model.mapper.") for name in checkpoint["state_dict"])
    assert "optimizer_states" not in checkpoint
    assert checkpoint[KEY]["lineage"][-1]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()

    tuned, merged = rebuilt(path), rebuilt(out / "merged.ckpt")
    torch.testing.assert_close(losses(merged, images), losses(tuned, images), atol=1e-5, rtol=1e-5)
    assert not any(p.requires_grad for p in merged.model.lm.parameters())

    alone = AutoModelForCausalLM.from_pretrained(out / "lm", dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(out / "lm")("a red circle", return_tensors="pt").input_ids
    lm = tuned.model.lm
    hidden = lm.hidden(lm.embed(ids), torch.ones_like(ids, dtype=torch.bool), torch.arange(ids.shape[1])[None])
    torch.testing.assert_close(alone(input_ids=ids).logits, lm.logits(hidden), atol=1e-5, rtol=1e-5)
    untuned = tiny_lm("gpt2").model.eval()
    assert not torch.allclose(alone(input_ids=ids).logits, untuned(input_ids=ids).logits, atol=1e-3)
    assert load_file(out / "lm" / "model.safetensors").keys() <= untuned.state_dict().keys()


@pytest.mark.slow
def test_evaluations_before_and_after_predict_the_same(checkpoint_of, tmp_path):
    path = checkpoint_of("lora")
    merge(path, tmp_path / "merged", build_merged)
    for name, ckpt in (("tuned", path), ("merged", tmp_path / "merged" / "merged.ckpt")):
        run("eval.py", f"ckpt={ckpt}", f"out={tmp_path}/{name}", "blind=false", "limit=4", "java=false")
    lines = [
        [json.loads(line)["prediction"] for line in (tmp_path / name / "predictions.jsonl").read_text().splitlines()]
        for name in ("tuned", "merged")
    ]
    assert lines[0] == lines[1]


@pytest.mark.slow
def test_errors_are_one_sentence_and_leave_nothing(checkpoint_of, tmp_path, monkeypatch):
    for method, message in (("none", "has nothing to merge"), ("adapters", "adapters are no change of weights")):
        with pytest.raises(ValueError, match=message):
            merge(checkpoint_of(method), tmp_path / "out", build_merged)
    with pytest.raises(ValueError, match=f"{tmp_path} exists; set --out to a new folder"):
        merge(checkpoint_of("lora"), tmp_path, build_merged)

    def full(*args, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("prefixvlm.convert.merge.AtomicCheckpointIO.save_checkpoint", full)
    with pytest.raises(OSError, match="No space left"):
        merge(checkpoint_of("lora"), tmp_path / "out", build_merged)
    assert not list(tmp_path.iterdir())
