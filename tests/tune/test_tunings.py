"""Every tuning: equal to the untuned model at first, trains the chosen tensors alone, restored by them."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from prefixvlm.batch import IGNORE_INDEX, Row
from prefixvlm.lm.blocks import enable_activation_checkpointing
from prefixvlm.model.trained_state import count_parameters, fingerprint, trained_state
from prefixvlm.tune.adapters import Adapters
from prefixvlm.tune.all import All
from prefixvlm.tune.biases import Biases
from prefixvlm.tune.last_blocks import LastBlocks
from prefixvlm.tune.layer_norms import LayerNorms
from prefixvlm.tune.peft import Peft, peft_layers
from tests.conftest import WIDTH, collator_of, tiny_model

TUNINGS = {
    "layer_norms": [LayerNorms()],
    "biases": [Biases()],
    "adapters": [Adapters()],
    "adapters_mlp_and_attention": [Adapters(mlp=4, attention=8)],
    "adapters_parallel": [Adapters(mlp=None, attention=8, parallel=True)],
    "lora": [Peft()],
    "lora_everywhere": [Peft(target_modules="all-linear", dropout=0.2)],
    "dora": [Peft("dora")],
    "rslora": [Peft("rslora")],
    "ia3": [Peft("ia3")],
    "last_blocks": [LastBlocks(1)],
    "all": [All()],
    "norms_then_lora": [LayerNorms(), Peft()],
    "lora_then_norms": [Peft(), LayerNorms()],
    "adapters_then_lora": [Adapters(), Peft(target_modules="all-linear")],
}
FAMILIES = ["gpt2", "opt", "llama"]
CASES = [(tuning, f) for tuning in TUNINGS for f in FAMILIES if (tuning, f) != ("biases", "llama")]  # which has none


def tuned(tuning, family="gpt2"):
    """Return tiny_model(family), tuned."""
    model = tiny_model(family)
    torch.manual_seed(1)
    for each in TUNINGS[tuning]:
        each.apply(model.lm)
    return model


def batch_of(model, images):
    rows = [Row((images[0], "Q: what? A:"), " red"), Row((images[1],), "a longer caption than the other")]
    return collator_of(model)(rows)


def steps(model, batch, number=3):
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01)
    for _ in range(number):
        optimizer.zero_grad()
        model(batch).mean().backward()
        assert all(p.grad is not None for p in trained), "DDP waits for each"
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize(("tuning", "family"), CASES)
@torch.no_grad()
def test_before_the_first_step_it_equals_the_untuned_model(tuning, family, images):
    untuned, model = tiny_model(family), tuned(tuning, family)
    assert count_parameters(model.lm)[0] > 0
    # DoRA divides by a norm and multiplies by it, and the probe for packing may choose another order of sums.
    torch.testing.assert_close(model(batch_of(model, images)), untuned(batch_of(untuned, images)), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(("tuning", "family"), CASES)
def test_training_changes_the_chosen_tensors_alone(tuning, family, images):
    model = tuned(tuning, family)
    before, print_before = copy.deepcopy(dict(model.state_dict())), fingerprint(model.lm)
    names = trained_state(model).keys()
    steps(model, batch_of(model, images))
    after = model.state_dict()
    for name, value in before.items():
        # A key's bias adds the same to each score of a query, which softmax cancels: its gradient is rounding alone.
        assert torch.equal(value, after[name]) == (name not in names) or "k_proj.bias" in name
    assert fingerprint(model.lm) == print_before
    assert model.lm.own_weights_tuned == any(
        isinstance(w, LayerNorms | Biases | LastBlocks | All) for w in TUNINGS[tuning]
    )


@pytest.mark.parametrize(("tuning", "family"), CASES)
def test_the_trained_tensors_restore_the_model(tuning, family, images):
    model = steps(tuned(tuning, family), batch_of(tiny_model(family), images))
    again = tuned(tuning, family)
    state = {name: value.clone() for name, value in trained_state(model).items()}
    assert (
        sum(v.numel() for v in {v.data_ptr(): v for v in trained_state(model).values()}.values())
        == (count_parameters(model)[0])
    )
    unexpected = again.load_state_dict(state, strict=False).unexpected_keys
    assert not unexpected
    batch = batch_of(model, images)
    with torch.no_grad():
        assert torch.equal(model(batch), again.eval()(batch))
        assert not torch.allclose(model(batch), tiny_model(family)(batch), atol=1e-3)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_activation_checkpointing_and_copying_change_no_gradient(tuning, images):
    model = tuned(tuning).eval()  # without dropout
    twice = copy.deepcopy(model)
    enable_activation_checkpointing(twice.lm.blocks)
    batch = batch_of(model, images)
    for each in (model, twice):
        each(batch).mean().backward()
    for (name, one), other in zip(model.named_parameters(), twice.parameters(), strict=True):
        if one.requires_grad:
            torch.testing.assert_close(one.grad, other.grad, msg=name)
            assert one is not other


@pytest.mark.parametrize(
    ("tuning", "count"),
    [
        ("layer_norms", (2 * 2 + 1) * 2 * WIDTH),
        ("biases", 2 * (3 + 1 + 4 + 1 + 2) * WIDTH + WIDTH),
        ("adapters", 2 * (2 * WIDTH * 8 + 8 + WIDTH)),
        ("adapters_mlp_and_attention", 2 * (2 * WIDTH * 8 + 8 + WIDTH + 2 * WIDTH * 4 + 4 + WIDTH)),
        ("lora", 2 * 8 * (WIDTH + 3 * WIDTH)),
        ("lora_everywhere", 2 * 8 * (4 + 2 + 5 + 5) * WIDTH),
        ("dora", 2 * (8 * 4 * WIDTH + 3 * WIDTH)),
        ("ia3", 2 * (3 * WIDTH + 4 * WIDTH)),
        ("last_blocks", 12 * WIDTH**2 + 13 * WIDTH + 2 * WIDTH),
        ("all", 2 * (12 * WIDTH**2 + 13 * WIDTH) + 2 * WIDTH + (257 + 96) * WIDTH),  # the head is the embedding
    ],
)
def test_the_number_of_trained_parameters_in_gpt2(tuning, count):
    assert count_parameters(tuned(tuning).lm)[0] == count


@pytest.mark.parametrize("tuning", TUNINGS)
def test_only_tuned_modules_have_dropout_in_training(tuning):
    model = tuned(tuning).train()
    in_training = {name for name, m in model.lm.named_modules() if m.training and isinstance(m, torch.nn.Dropout)}
    every = {name for name, m in model.lm.named_modules() if isinstance(m, torch.nn.Dropout)}
    expected = {
        "all": every,
        "last_blocks": {name for name in every if ".h.1." in name},
        "lora_everywhere": {name for name in every if "lora_dropout" in name},
    }
    assert in_training == expected.get(tuning, set())
    assert tuning not in expected or in_training
    assert not any(module.training for module in model.eval().lm.modules())


def test_the_probe_for_packing_runs_without_dropout(images):
    model = tuned("all").train()
    torch.manual_seed(5)
    model(batch_of(model, images))
    first = torch.get_rng_state()
    torch.manual_seed(5)
    model(batch_of(model, images))  # packs is None in a resumed run, and known later
    assert torch.equal(first, torch.get_rng_state())
    assert any(module.training for module in model.lm.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_of_all_equals_that_of_a_plain_cross_entropy(family, images):
    model = tuned("all", family).double().eval()
    model.lm.logits = model.lm.head.forward  # without the rounding to float32
    naive = copy.deepcopy(model)
    batch = batch_of(model, images)
    batch = replace(batch, pixel_values=batch.pixel_values.double())
    model(batch).mean().backward()
    positions = torch.arange(batch.input_ids.shape[1]).expand_as(batch.input_ids)
    logits = naive.lm.model(
        inputs_embeds=naive.inputs_embeds(batch), attention_mask=batch.attention_mask.long(), position_ids=positions
    ).logits
    F.cross_entropy(logits[:, :-1].transpose(1, 2), batch.labels[:, 1:], ignore_index=IGNORE_INDEX).backward()
    for (name, ours), theirs in zip(model.named_parameters(), naive.parameters(), strict=True):
        if theirs.requires_grad:
            exact = 1e-6 if family == "llama" else 1e-11  # its norms always compute in float32
            torch.testing.assert_close(ours.grad, theirs.grad, atol=exact, rtol=exact, msg=name)
    assert model.lm.head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("family", ["gpt_neox", "gptj", "bloom", "qwen2", "t5", "bert"])
def test_other_families(family, tuning, images):
    if (tuning, family) == ("biases", "t5"):
        pytest.skip("T5 has none")
    model = tiny_model(family)
    batch = batch_of(model, images)

    def states():
        if model.lm.generates:
            return model(batch)
        return model.lm.hidden_at(model.inputs_embeds(batch), batch.attention_mask, batch.attention_mask)

    before = states().detach()
    for each in TUNINGS[tuning]:
        each.apply(model.lm)
    after = states()
    torch.testing.assert_close(after, before, atol=2e-5, rtol=1e-5)
    after.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_nothing_to_train_or_another_dtype_is_an_error():
    with pytest.raises(ValueError, match="tune.biases finds nothing in LlamaForCausalLM to train; set tune to another"):
        Biases().apply(tiny_model("llama").lm)
    for tuning, key in ((All(), "all"), (LayerNorms(), "layer_norms"), (LastBlocks(), "last_blocks")):
        with pytest.raises(
            ValueError, match=f"tune.{key} trains weights that are torch.bfloat16; set lm.dtype=float32"
        ):
            tuning.apply(tiny_model("gpt2").lm.to(torch.bfloat16))
    for n in (0, 3):
        with pytest.raises(ValueError, match=f"tune.last_blocks.n is {n}; accepted are 1 to 2"):
            LastBlocks(n).apply(tiny_model("gpt2").lm)


@pytest.mark.parametrize("tuning", ["adapters_mlp_and_attention", "lora_everywhere", "dora", "ia3"])
def test_weights_added_to_a_half_precision_model_are_float32(tuning, images):
    model = tiny_model("llama")
    model.lm.to(torch.bfloat16)
    for each in TUNINGS[tuning]:
        each.apply(model.lm)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    model(batch_of(model, images)).mean().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_peft_layers():
    assert list(peft_layers(tuned("lora").lm)) == [f"transformer.h.{i}.attn.c_attn" for i in range(2)]
    assert not peft_layers(tuned("adapters").lm)


def test_the_last_blocks_of_t5_are_those_of_its_decoder():
    lm = tiny_model("t5").lm
    LastBlocks(1).apply(lm)
    names = {name for name, p in lm.model.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in names} == {"decoder"}
    assert "decoder.final_layer_norm.weight" in names
