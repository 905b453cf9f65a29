"""LoRA and its variants against peft, on quantized models, merged; errors."""

import copy

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model

from prefixvlm.lm.causal import CausalLM
from prefixvlm.model.trained_state import count_parameters
from prefixvlm.tune.adapters import Adapters
from prefixvlm.tune.layer_norms import LayerNorms
from prefixvlm.tune.peft import Peft
from tests.conftest import tiny_lm, tiny_model
from tests.lm.test_quantization import saved
from tests.tune.test_tunings import batch_of, steps

EVERYWHERE = "all-linear"


@pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Peft(), LoraConfig(r=8)),
        (Peft(r=3, target_modules=EVERYWHERE), LoraConfig(r=3, target_modules=EVERYWHERE)),
        (Peft("dora", r=2), LoraConfig(r=2, use_dora=True)),
        (Peft("rslora", r=1), LoraConfig(r=1, use_rslora=True)),
        (Peft("ia3"), IA3Config()),
    ],
)
def test_the_number_of_trained_parameters_is_that_of_peft(family, ours, theirs):
    lm = tiny_lm(family)
    ours.apply(lm)
    reference = get_peft_model(tiny_lm(family).model, copy.deepcopy(theirs))
    trained, all_parameters = reference.get_nb_trainable_parameters()
    assert count_parameters(lm) == (trained, all_parameters - trained)


@pytest.mark.parametrize(("method", "scale"), [("lora", 16 / 4), ("rslora", 16 / 2)])
def test_the_update_is_scaled_as_in_the_papers(method, scale):
    lm = tiny_lm("llama")
    weight = lm.model.get_submodule("model.layers.1.self_attn.q_proj").weight.clone()
    Peft(method, r=4, alpha=16, target_modules=["q_proj"]).apply(lm)
    layer = lm.model.get_submodule("model.layers.1.self_attn.q_proj")
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.nn.init.normal_(b)
    x = torch.randn(5, 32)
    torch.testing.assert_close(layer(x), x @ (weight + scale * b @ a).T, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["lora", "dora", "rslora", "ia3"])
@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_merging_keeps_the_loss_and_restores_the_names_of_the_untuned_model(kind, family, images):
    model = tiny_model(family)
    tunings = [Peft(kind), LayerNorms()]
    for tuning in tunings:
        tuning.apply(model.lm)
    batch = batch_of(model, images)
    steps(model, batch)
    with torch.no_grad():
        expected = model(batch)
        for tuning in tunings:
            tuning.merge(model.lm)
        torch.testing.assert_close(model(batch), expected, atol=1e-5, rtol=1e-5)
    assert model.state_dict().keys() == tiny_model(family).state_dict().keys()
    assert not hasattr(model.lm.model, "peft_config")
    assert not any(module.training for module in model.train().lm.modules())


@pytest.mark.parametrize("kind", ["int8", "nf4"])
@pytest.mark.filterwarnings("ignore:MatMul8bitLt. inputs will be cast from")
def test_a_quantized_model_is_tuned_by_float32_weights(kind, tmp_path, images):
    saved(tmp_path, "llama")
    model = tiny_model("llama", width=128)
    model.lm = CausalLM.from_pretrained(str(tmp_path), quantization=kind)
    frozen = {name: value.clone() for name, value in model.lm.state_dict().items()}
    batch = batch_of(model, images)
    before = model(batch).mean().item()
    Peft(target_modules=EVERYWHERE).apply(model.lm)
    assert {p.dtype for p in model.lm.parameters() if p.requires_grad} == {torch.float32}
    steps(model, batch, 10)
    assert model(batch).mean().item() < before - 0.5
    now = {name.replace(".base_layer", ""): value for name, value in model.lm.state_dict().items()}
    assert all(torch.equal(now[name], value) for name, value in frozen.items())
    with pytest.raises(ValueError, match="tune.layer_norms trains .* set lm.dtype=float32 and lm.quantization=null"):
        LayerNorms().apply(model.lm)


def test_errors_name_the_key():
    with pytest.raises(ValueError, match="tune.lora.method is 'lorra'; accepted are lora, dora, rslora, ia3"):
        Peft("lorra")
    with pytest.raises(ValueError, match="tune.lora.r is 0; it must be"):
        Peft(r=0)
    with pytest.raises(ValueError, match=r"tune.lora.target_modules is \['nothing'\]; the error of peft: .*not found"):
        Peft(target_modules=["nothing"]).apply(tiny_lm("gpt2"))
    with pytest.raises(ValueError, match="adapters are no change of weights"):
        Adapters().merge(tiny_lm("gpt2"))
    lm = tiny_lm("gpt2")
    Peft().apply(lm)
    with pytest.raises(ValueError, match="two methods of peft"):
        Peft("ia3").apply(lm)
