"""Adapters: formula, places and errors."""

import re

import pytest
import torch
import torch.nn.functional as F

from prefixvlm.model.trained_state import fingerprint
from prefixvlm.tune.adapters import Adapter, Adapters
from prefixvlm.tune.layer_norms import norms
from tests.conftest import tiny_lm

FAMILIES = {
    "gpt2": ("mlp", "attn"),
    "opt": ("fc2", "self_attn"),
    "llama": ("mlp", "self_attn"),
    "bloom": ("dense_4h_to_h", "dense"),
    "bert": ("dense",),
    "t5": ("DenseReluDense", "SelfAttention"),
}


def filled(adapter):
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    return adapter


@pytest.mark.parametrize("parallel", [False, True])
def test_an_adapter_takes_the_output_or_in_parallel_the_input(parallel):
    lm = tiny_lm("llama")
    mlp = lm.blocks[1].mlp
    x = torch.randn(3, 5, 32)
    out = mlp(x)
    Adapters(mlp=4, parallel=parallel).apply(lm)
    adapter = filled(mlp.adapter)
    assert adapter.down.weight.shape == (8, 32)
    read = x if parallel else out
    expected = (
        out
        + F.linear(F.linear(read, adapter.down.weight, adapter.down.bias).relu(), adapter.up.weight)
        + (adapter.up.bias)
    )
    torch.testing.assert_close(mlp(x), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_come_before_the_residual(family):
    """With the matrices before them 0, adapters have inputs of 0."""
    lm = tiny_lm(family)
    Adapters(mlp=4, attention=8).apply(lm)
    read = []
    for module in lm.modules():
        if isinstance(module, Adapter):
            module.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    for name, parameter in lm.named_parameters():
        if re.search(
            r"c_proj|out_proj|fc2|o_proj|down_proj|output\.dense|self_attention\.dense|4h_to_h|\.o\.|\.wo\.", name
        ):
            parameter.data.zero_()
    x = torch.randn(2, 5, lm.width)
    lm.hidden_at(x, torch.ones(2, 5, dtype=torch.bool), torch.ones(2, 5, dtype=torch.bool))
    assert len(read) >= 2 * 2
    assert not any(each.any() for each in read)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_block_has_an_adapter_per_place_and_names_are_kept(family):
    lm = tiny_lm(family)
    before, names = fingerprint(lm), lm.state_dict().keys()
    Adapters(mlp=4, attention=8).apply(lm)
    found = [name for name, module in lm.named_modules() if isinstance(module, Adapter)]
    assert len(found) == 2 * len(lm.blocks)
    assert {name.split(".")[-2] for name in found} == set(FAMILIES[family])
    assert names < lm.state_dict().keys()
    assert fingerprint(lm) == before  # the same frozen model as without them


def test_norms_are_found_in_each_family():
    numbers = {"gpt2": 5, "opt": 5, "llama": 5}
    assert {family: len(norms(tiny_lm(family).model)) for family in numbers} == numbers


def test_invalid_options_are_errors():
    with pytest.raises(ValueError, match="tune.adapters.mlp is None and attention None"):
        Adapters(mlp=None)
    with pytest.raises(ValueError, match="tune.adapters.mlp is -1"):
        Adapters(mlp=-1)
    with pytest.raises(ValueError, match="tune.adapters.mlp with parallel=true finds no place in OPTDecoderLayer"):
        Adapters(parallel=True).apply(tiny_lm("opt"))
