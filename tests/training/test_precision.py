"""Mixed precision: frozen weights keep their dtype and are not cast, and gradients are right."""

import pytest
import torch

from prefixvlm.callbacks.frozen_guard import FrozenGuard
from prefixvlm.config import check_ranges, compose_run
from prefixvlm.lm.causal import CausalLM
from prefixvlm.tune.last_blocks import LastBlocks
from prefixvlm.tune.layer_norms import LayerNorms
from tests.conftest import collator_of, tiny_model
from tests.encoder.test_openclip import Casts
from tests.model.test_prefix_lm import rows_of
from tests.training import test_module
from tests.training.test_module import data_of, module_of, trainer_of

shards = test_module.shards
pytestmark = [
    *test_module.pytestmark,
    pytest.mark.filterwarnings("ignore:MatMul8bitLt. inputs will be cast from"),
]


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32, "int8", "nf4"])
def test_a_fit_in_mixed_precision_keeps_the_dtype_of_each_part(shards, tmp_path, kind):
    module = module_of(width=128)
    lm = module.model.lm
    if isinstance(kind, str):
        lm.model.save_pretrained(tmp_path)
        lm.tokenizer.save_pretrained(tmp_path)
        module.model.lm = lm = CausalLM.from_pretrained(str(tmp_path), quantization=kind)
    else:
        lm.to(kind)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer_of(FrozenGuard(), max_steps=3, precision="bf16-mixed").fit(module, data_of(module, shards))
    after = module.state_dict()
    for name, value in before.items():
        assert after[name].dtype == value.dtype
        assert torch.equal(after[name], value) == (".mapper." not in name)
    assert {p.dtype for p in module.model.mapper.parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_no_frozen_weight_is_cast_in_a_step_with_mixed_precision(family, images, dtype):
    model = tiny_model(family)
    model.lm.to(dtype)
    batch = collator_of(model)(rows_of(images))
    model(batch)
    for part, cast in ((model.lm, False), (model.mapper, True)):
        with Casts(part.parameters()) as casts, torch.autocast("cpu", torch.bfloat16):
            loss = model(batch).mean()
        loss.backward()
        assert (casts.number > 0) == cast


def test_gradients_through_a_bfloat16_model_are_right_to_its_precision(model, images):
    batch = collator_of(model)(rows_of(images))
    model(batch).mean().backward()
    exact = model.mapper.linear.weight.grad.clone()
    model.zero_grad()
    model.lm.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(batch).mean()
    loss.backward()
    found = model.mapper.linear.weight.grad
    assert found.dtype == loss.dtype == torch.float32
    assert (found - exact).norm() < 0.2 * exact.norm()
    assert torch.nn.functional.cosine_similarity(found.flatten(), exact.flatten(), dim=0) > 0.98


@pytest.mark.parametrize("way", [LayerNorms(), LastBlocks(1)], ids=["layer_norms", "last_blocks"])
@pytest.mark.parametrize("family", ["gpt2", "opt", "t5"])  # OPT's last projection leaves bfloat16
def test_a_tuned_language_model_takes_part_in_mixed_precision(family, way, images):
    model = tiny_model(family)
    way.apply(model.lm)
    batch = collator_of(model)(rows_of(images))
    exact = model(batch)
    with Casts(model.lm.parameters()) as casts, torch.autocast("cpu", torch.bfloat16):
        losses = model(batch)
    assert casts.number > 0
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, exact, atol=0.3, rtol=0.1)
    losses.mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_a_precision_that_loses_small_updates_is_refused(precision):
    with pytest.raises(ValueError, match=f"trainer.precision is {precision}.*set it to {precision[:-4]}mixed"):
        check_ranges(compose_run([f"trainer.precision={precision}"]))
