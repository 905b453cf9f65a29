"""Architectures on the meta device, and random weights."""

import pytest
import torch

from prefixvlm.lm import packaged
from prefixvlm.lm.architectures import CONFIGS
from prefixvlm.lm.causal import CausalLM
from prefixvlm.lm.masked import MaskedLM
from prefixvlm.lm.seq2seq import Seq2SeqLM
from prefixvlm.model.trained_state import count_parameters, fingerprint
from tests.conftest import tiny_lm
from tests.lm.test_packaged import needs_package

PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "EleutherAI/gpt-j-6b": 6_050_882_784,
    "EleutherAI/pythia-410m": 405_334_016,
    "facebook/opt-2.7b": 2_651_596_800,
    "facebook/opt-6.7b": 6_658_473_984,
    "lmsys/vicuna-7b-v1.5": 6_738_415_616,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "bigscience/bloom-560m": 559_214_592,
    "google/flan-t5-base": 247_577_856,
    "bert-base-uncased": 109_482_240 - 590_592,  # without the pooler
    "sentence-transformers/all-MiniLM-L6-v2": 22_713_216 - 147_840,
}


def of(name):
    return Seq2SeqLM if "t5" in name else MaskedLM if "bert" in name or "MiniLM" in name else CausalLM


@pytest.mark.parametrize("name", CONFIGS)
def test_known_architectures_have_their_published_number_of_parameters(name):
    with torch.device("meta"):
        lm = of(name).from_pretrained(name)
    assert count_parameters(lm) == (0, PUBLISHED[name])
    assert lm.head.weight.shape[1] == lm.state_width if lm.generates else lm.state_width == lm.width
    assert lm.blocks
    assert (lm.max_positions is None) == ("bloom" in name or "t5" in name)


def test_packaged_models_and_folders_are_described_without_their_weights(tmp_path):
    tiny_lm("gpt2").model.config.save_pretrained(tmp_path)
    with torch.device("meta"):
        assert count_parameters(packaged.SmolLM2.from_pretrained(chat=True))[1] == 134_515_008
        assert count_parameters(packaged.MiniLM.from_pretrained())[1] == 22_565_376
        described = CausalLM.from_pretrained(str(tmp_path))
    assert count_parameters(described) == count_parameters(tiny_lm("gpt2"))


@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom", "t5", "t5_tied", "bert"])
def test_random_weights_depend_on_the_seed_alone_and_leave_the_generator(tmp_path, images, family):
    lm = tiny_lm(family)
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)

    attention = {"attention": "eager" if family == "bloom" else "sdpa"}

    def built(seed, **options):
        torch.manual_seed(seed)
        torch.rand(seed)  # the state of the generator has no influence
        before = torch.get_rng_state()
        found = type(lm).from_pretrained(str(tmp_path), weights="random", **attention, **options)
        assert torch.equal(torch.get_rng_state(), before)
        return found

    prints = {fingerprint(built(1)), fingerprint(built(1, dtype="float32")), fingerprint(built(1, dtype="bfloat16"))}
    assert len(prints) == 1
    assert fingerprint(built(2)) not in prints | {fingerprint(lm)}
    assert fingerprint(type(lm).from_pretrained(str(tmp_path), **attention)) == fingerprint(lm)
    assert count_parameters(built(1)) == count_parameters(lm)
    assert built(1, dtype="bfloat16").dtype == torch.bfloat16
    assert not built(1).model.training


@needs_package
def test_packaged_models_have_random_weights_too():
    assert packaged.MiniLM.from_pretrained(weights="random").model.embeddings.word_embeddings.weight.std() < 0.03


def test_invalid_options_of_weights_are_errors(tmp_path):
    with pytest.raises(ValueError, match="lm.weights is 'none'; accepted are pretrained and random"):
        CausalLM.from_pretrained(str(tmp_path), weights="none")
    with pytest.raises(ValueError, match="lm.weights=random cannot be quantized; set lm.quantization=null"):
        CausalLM.from_pretrained(str(tmp_path), weights="random", quantization="nf4")


def test_an_unsupported_attention_is_an_error(tmp_path):
    lm = tiny_lm("bloom")
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no attention of the kind 'sdpa'; set lm.attention=eager"):
        CausalLM.from_pretrained(str(tmp_path))
