"""Saving a language model with its tokenizer."""

import pytest
from safetensors import SafetensorError

from prefixvlm.lm.causal import CausalLM
from prefixvlm.lm.saving import save_pretrained
from prefixvlm.model.trained_state import fingerprint
from tests.conftest import tiny_lm


def test_a_saved_model_can_be_loaded(tmp_path):
    lm = tiny_lm("llama")
    save_pretrained(lm.model, lm.tokenizer, tmp_path / "lm")
    loaded = CausalLM.from_pretrained(str(tmp_path / "lm"), dtype="float32")
    assert fingerprint(loaded) == fingerprint(lm)
    assert loaded.tokenizer("a text").input_ids == lm.tokenizer("a text").input_ids


def test_an_error_of_safetensors_is_an_os_error(tmp_path, monkeypatch):
    lm = tiny_lm("gpt2")

    def fail(folder):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(lm.model, "save_pretrained", fail)
    with pytest.raises(OSError, match="lm cannot be written: No space left on device"):
        save_pretrained(lm.model, lm.tokenizer, tmp_path / "lm")
