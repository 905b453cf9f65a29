"""Random models and captions for both sides of the benchmarks; captions are as long as real ones."""

import random
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from prefixvlm.batch import IGNORE_INDEX, IMAGE_ID, Batch
from prefixvlm.encoder.interface import ImageEncoder
from prefixvlm.lm.causal import CausalLM
from prefixvlm.mapper.interface import Mapper
from prefixvlm.mapper.mlp import MLPMapper
from prefixvlm.mapper.transformer import TransformerMapper
from prefixvlm.model.prefix_lm import PrefixLM

LENGTHS = Path(__file__).with_name("caption_lengths.tsv")
FEATURE_WIDTH, PREFIX_LENGTH = 640, 10  # of ClipCap with CLIP RN50x4
MAPPERS = {"transformer": TransformerMapper, "mlp": MLPMapper}


@dataclass(frozen=True)
class Sizes:
    num_layers: int = 12
    width: int = 768
    vocabulary: int = 50257
    batch: int = 40  # the default of ClipCap's code
    pool: int = 20  # batches that "by length" sorts together
    images: int = 32
    baseline_images: int = 2  # captioned by the baseline each round, scaled to `images`
    rounds: int = 5


QUICK = Sizes(num_layers=2, width=192, vocabulary=1009, batch=4, pool=4, images=4, baseline_images=1, rounds=2)


class Features(ImageEncoder):
    """An encoder that returns precomputed pooled features."""

    feature_width, num_features = FEATURE_WIDTH, 1

    def forward(self, pixel_values: Tensor) -> Tensor:
        return pixel_values


class Tokenizer:
    """What CausalLM needs of a tokenizer; the benchmarks have ids alone."""

    eos_token_id = bos_token_id = pad_token_id = 0  # one id for all, as in GPT-2

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def __len__(self) -> int:
        return self.vocabulary

    def __call__(self, text: str) -> SimpleNamespace:
        return SimpleNamespace(input_ids=[])


def caption_lengths() -> list[int]:
    """Return the number of tokens of each caption in the table, with EOS."""
    rows = [line.split("\t") for line in LENGTHS.read_text().splitlines() if line[0].isdigit()]
    return [int(tokens) + 1 for tokens, num in rows for _ in range(int(num))]


def random_lm(sizes: Sizes) -> GPT2LMHeadModel:
    torch.manual_seed(0)  # the same weights for both sides
    ids = {"vocab_size": sizes.vocabulary, "bos_token_id": 0, "eos_token_id": 0}
    # With GPT-2's own initializer_range (0.02) it would repeat its last token, and all searches would agree.
    return GPT2LMHeadModel(GPT2Config(n_layer=sizes.num_layers, n_embd=sizes.width, initializer_range=0.1, **ids))


def random_mapper(name: str, sizes: Sizes) -> Mapper:
    torch.manual_seed(1)
    return MAPPERS[name](FEATURE_WIDTH, 1, sizes.width, PREFIX_LENGTH)


def our_model(mapper: Mapper, lm: GPT2LMHeadModel) -> PrefixLM:
    return PrefixLM(Features(), mapper, CausalLM(lm, Tokenizer(lm.config.vocab_size)))


def batch_of(features: Tensor, captions: list[list[int]], prefix_length: int = PREFIX_LENGTH) -> Batch:
    """Return a Collator's batch of images with these captions; empty captions give images alone."""
    width = prefix_length + max(map(len, captions))
    ids = torch.zeros(len(captions), width, dtype=torch.long)
    labels = torch.full_like(ids, IGNORE_INDEX)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    ids[:, :prefix_length] = IMAGE_ID
    for row, caption in enumerate(captions):
        end = prefix_length + len(caption)
        mask[row, :end] = True
        ids[row, prefix_length:end] = labels[row, prefix_length:end] = torch.tensor(caption, dtype=torch.long)
    return Batch(features, ids, mask, labels, torch.arange(len(captions)))


def random_captions(rng: random.Random, num: int, vocabulary: int) -> list[list[int]]:
    """Return random ids that end with EOS, with the lengths of real captions."""
    lengths = caption_lengths()
    return [[*(rng.randrange(1, vocabulary) for _ in range(rng.choice(lengths) - 1)), 0] for _ in range(num)]
