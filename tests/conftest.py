"""Fixtures and small random models with real tokenizers; no network, no token."""

import os
import signal

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["OMP_NUM_THREADS"] = "1"  # also in processes that tests start; tiny models are faster with one thread

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from prefixvlm.data.collate import Collator
from prefixvlm.encoder.interface import ImageEncoder
from prefixvlm.lm.causal import CausalLM
from prefixvlm.lm.interface import LanguageModel
from prefixvlm.lm.loading import untie_head
from prefixvlm.lm.masked import MaskedLM
from prefixvlm.lm.seq2seq import Seq2SeqLM
from prefixvlm.mapper.interface import Mapper
from prefixvlm.model.prefix_lm import PrefixLM

WIDTH = 32
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job, and its children, ignore Ctrl-C
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def signal_handlers():
    """Restore the handlers that a program's main has set in this process: they would end the test's worker."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def pytest_collection_modifyitems(items):
    """Files at the top of tests/ come first: they run whole commands, and would leave a worker alone at the end."""
    items.sort(key=lambda item: len(item.path.parts))


def byte_tokenizer(around: str = "$A") -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer without merges: 256 bytes, then <eos>; pad is EOS, as in GPT-2 and SmolLM2.

    around: template of the special tokens around a text, as "$A <eos>" for T5.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(around, special_tokens=[("<eos>", 256)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")


def tiny_lm(family: str, seed: int = 0, width: int = WIDTH) -> LanguageModel:
    """Return a random model of 2 layers.

    gpt2: learned positions; opt: learned, offset by 2, from the mask; llama, qwen2: rotary; gpt_neox, gptj: rotary in
    part; bloom: ALiBi; t5: an encoder-decoder with relative positions; t5_tied: as the first T5; bert: reads both ways.
    """
    torch.manual_seed(seed)
    tokenizer, std = byte_tokenizer(), 0.3 * (WIDTH / width) ** 0.5
    size = {"vocab_size": len(tokenizer), "eos_token_id": 256, "pad_token_id": 256, "bos_token_id": 256}
    common = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": std, **size}
    if family == "gpt2":
        config = GPT2Config(n_embd=width, n_layer=2, n_head=4, n_positions=96, initializer_range=std, **size)
        return CausalLM(GPT2LMHeadModel(config), tokenizer)
    if family == "opt":
        config = OPTConfig(
            hidden_size=width, num_hidden_layers=2, num_attention_heads=4, ffn_dim=2 * width,
            word_embed_proj_dim=width // 2,
            init_std=std, max_position_embeddings=96, **size,
        )  # fmt: skip
        return CausalLM(OPTForCausalLM(config), tokenizer)
    if family == "gpt_neox":
        config = GPTNeoXConfig(intermediate_size=2 * width, max_position_embeddings=96, **common)
        return CausalLM(GPTNeoXForCausalLM(config), tokenizer)
    if family == "gptj":
        config = GPTJConfig(n_positions=96, rotary_dim=4, **common)
        return CausalLM(GPTJForCausalLM(config), tokenizer)
    if family == "bloom":
        return CausalLM(BloomForCausalLM(BloomConfig(**common)), tokenizer)
    if family in ("t5", "t5_tied"):
        config = T5Config(
            d_model=width, d_kv=8, d_ff=2 * width, num_layers=2, num_heads=4, tie_word_embeddings=family == "t5_tied",
            decoder_start_token_id=7, **size,
        )  # fmt: skip
        model = untie_head(T5ForConditionalGeneration(config))
        model.shared.weight.data *= 0.2  # otherwise it repeats its input
        return Seq2SeqLM(model, byte_tokenizer("$A <eos>"))
    if family == "bert":
        config = BertConfig(intermediate_size=2 * width, max_position_embeddings=96, **common)
        return MaskedLM(BertModel(config), byte_tokenizer("<eos> $A <eos>"))
    config_class, model_class = (
        (Qwen2Config, Qwen2ForCausalLM) if family == "qwen2" else (LlamaConfig, LlamaForCausalLM)
    )
    config = config_class(num_key_value_heads=2, intermediate_size=2 * width, max_position_embeddings=96, **common)
    return CausalLM(model_class(config), tokenizer)


class MeanEncoder(ImageEncoder):
    """A linear layer on the mean colour: the smallest encoder that depends on the image."""

    feature_width, num_features = 8, 1

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 8).requires_grad_(False)
        self.calls = 0

    @staticmethod
    def transform(image: Image.Image) -> Tensor:
        return torch.tensor(list(image.resize((4, 4)).convert("RGB").tobytes())).view(4, 4, 3).permute(2, 0, 1) / 255

    def forward(self, pixel_values: Tensor) -> Tensor:
        self.calls += len(pixel_values)
        return self.linear(pixel_values.mean((2, 3)))[:, None]


class TinyMapper(Mapper):
    def __init__(self, lm_width: int, prefix_length: int = 3) -> None:
        super().__init__()
        self.prefix_length = prefix_length
        self.linear = nn.Linear(8, prefix_length * lm_width)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features[:, 0]).unflatten(1, (self.prefix_length, -1))


def tiny_model(family: str, seed: int = 0, width: int = WIDTH) -> PrefixLM:
    torch.manual_seed(seed)
    lm = tiny_lm(family, seed, width)
    return PrefixLM(MeanEncoder(), TinyMapper(lm.width), lm)


def collator_of(model: PrefixLM, **kwargs: int) -> Collator:
    lm = model.lm
    return Collator(
        model.encoder.transform, lm.tokenizer, model.mapper.prefix_length, lm.bos_ids, lm.eos_id, lm.pad_id,
        start_ids=lm.start_ids, end_ids=lm.end_ids, **kwargs,
    )  # fmt: skip


@pytest.fixture(params=["gpt2", "opt", "llama"])
def model(request: pytest.FixtureRequest) -> PrefixLM:
    return tiny_model(request.param)


@pytest.fixture
def images() -> list[Image.Image]:
    return [Image.new("RGB", (8, 8), color) for color in ("red", "green", "blue", "white", "black")]
