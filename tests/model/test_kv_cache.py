"""The buffered cache against a cache that copies everything."""

import random

import torch
from transformers import DynamicCache, GPT2Config, MistralConfig

from prefixvlm.model.kv_cache import ROOM, BufferedLayer, DecoderCache


def test_reordering_equals_that_of_a_cache_that_copies():
    config = GPT2Config(n_layer=2)
    ours, theirs = DecoderCache(config), DynamicCache(config=config)
    rng = random.Random(0)
    torch.manual_seed(0)

    def read(num_rows, num):
        for layer in range(2):
            states = torch.randn(num_rows, 3, num, 4), torch.randn(num_rows, 3, num, 4)
            for got, expected in zip(ours.update(*states, layer), theirs.update(*states, layer), strict=True):
                assert torch.equal(got, expected)

    def reorder(rows):
        ours.reorder(torch.tensor(rows))
        theirs.batch_select_indices(torch.tensor(rows))

    read(2, 3)
    reorder([1, 0, 1, 1])  # two images, four texts
    read(4, 2)
    ours.mark_prompt_end(torch.ones(4, 5, dtype=torch.bool))
    reorder([row for row in range(4) for _ in range(3)])  # three beams each
    num_rows = 12
    for step in range(ROOM + 5):
        read(num_rows, 1)
        rows = [first + rng.randrange(3) for first in range(0, num_rows, 3) for _ in range(3)]
        if step in (4, 20):  # a text is finished
            del rows[3:6]
            num_rows -= 3
        reorder(rows)
    reorder([2, 2, 0, 5, 1, 4, 3, 0, 0])  # more again, across texts
    read(9, 2)
    assert ours.get_seq_length() == theirs.get_seq_length()


def test_layers_of_other_kinds_are_those_of_transformers():
    cache = DecoderCache(MistralConfig(num_hidden_layers=2, sliding_window=8))
    assert not any(isinstance(layer, BufferedLayer) for layer in cache.layers)
    states = torch.arange(3.0).view(3, 1, 1, 1)
    cache.update(states, states, 0)
    cache.reorder(torch.tensor([2, 0]))
    assert cache.layers[0].keys.flatten().tolist() == [2, 0]
