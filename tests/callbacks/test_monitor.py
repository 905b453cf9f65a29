"""Training statistics of Monitor against values computed by hand."""

import io
import time

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.profilers import SimpleProfiler
from PIL import Image
from torch import nn

from prefixvlm.callbacks.history import History
from prefixvlm.callbacks.monitor import Monitor, learning_rates
from prefixvlm.callbacks.prefix_statistics import nearest_tokens, token_norm
from prefixvlm.data.datamodule import ShardDataModule
from prefixvlm.lm.nearest_tokens import CHUNK
from prefixvlm.training.optim import Optim
from tests.conftest import MeanEncoder, tiny_lm
from tests.training.test_module import (  # noqa: F401
    data_of,
    fit_with_two_validations,
    module_of,
    pytestmark,
    shards,
    trainer_of,
)


class Numbers(Callback):
    """Records the metrics of each step and the gradients before the optimizer steps."""

    def __init__(self):
        self.logged, self.gradients = [], []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.gradients.append({n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None})

    def on_validation_end(self, trainer, module):
        self.validated = {name: float(value) for name, value in trainer.callback_metrics.items()}

    def on_train_batch_end(self, trainer, *args):
        metrics = trainer.callback_metrics
        self.logged.append({n.removeprefix("train/"): float(v) for n, v in metrics.items() if n.startswith("train/")})


def fit(module, shards, *callbacks, kind=ShardDataModule, steps=3, **keywords):  # noqa: F811
    """Fit on the same three images at each step."""
    trainer = trainer_of(*callbacks, max_steps=steps, limit_val_batches=0, **keywords)
    trainer.fit(module, data_of(module, shards, kind))
    return trainer


def test_each_step_has_its_numbers(shards):  # noqa: F811
    seen, module = Numbers(), module_of()
    fit(module, shards, Monitor(), seen, gradient_clip_val=1e-3)
    for number, (logged, gradients) in enumerate(zip(seen.logged, seen.gradients, strict=True)):
        norm = torch.cat([gradient.flatten() for gradient in gradients.values()]).norm()
        assert logged["grad_norm"] == pytest.approx(norm.item(), rel=1e-5)
        assert norm > 1e-2  # as it was before it was clipped
        assert logged["lr_mapper"] == pytest.approx(module.optim.lr * module.optim.factor(number, 3))
        assert logged["samples_per_second"] * logged["step_seconds"] == pytest.approx(3, rel=1e-3)
        assert 0 <= logged["data_wait"] <= 1
        assert 0.05 < logged["memory_gb"] < 100
        assert "grad_norm_mapper" not in logged
    assert len(seen.logged) == 3


def test_the_norms_of_the_prefix_and_of_the_tokens(shards):  # noqa: F811
    seen, module, prefixes = Numbers(), module_of(), []
    module.model.mapper.register_forward_hook(lambda mapper, features, prefix: prefixes.append(prefix.detach()))
    fit(module, shards, Monitor(), seen)
    for logged, prefix in zip(seen.logged, prefixes, strict=True):
        assert logged["prefix_norm"] == pytest.approx(prefix.norm(dim=-1).mean().item(), rel=1e-5)
        embeddings = module.model.lm.model.get_input_embeddings().weight
        assert logged["token_norm"] == pytest.approx(embeddings.norm(dim=-1).mean().item(), rel=1e-5)


def test_statistics_are_computed_only_at_steps_that_log(shards, monkeypatch):  # noqa: F811
    looked = []
    monkeypatch.setattr("prefixvlm.callbacks.monitor.grad_norms", lambda module: looked.append("gradients") or {})
    monkeypatch.setattr("prefixvlm.callbacks.monitor.token_norm", lambda lm: looked.append("tokens") or 1.0)
    module, monitor = module_of(), Monitor(every_n_steps=2)
    begin = monitor.recorder.begin
    monkeypatch.setattr(monitor.recorder, "begin", lambda mapper: looked.append("prefix") or begin(mapper))
    fit(module, shards, monitor, steps=5)
    assert looked == ["prefix", "gradients", "tokens", "prefix", "gradients"]
    assert not module.model.mapper._forward_hooks


def test_with_accumulation_a_step_is_what_the_optimizer_makes(shards):  # noqa: F811
    history = History()
    fit(module_of(), shards, Monitor(), history, steps=2, accumulate_grad_batches=2)
    values = {name: [r["value"] for r in history.records if r["name"] == f"train/{name}"] for name in
              ("samples_per_second", "step_seconds")}  # fmt: skip
    found = {round(a * b) for a, b in zip(*values.values(), strict=True)}
    assert found <= {3, 6}
    assert max(found) <= 6


class Slow(ShardDataModule):
    """A data module whose training loader takes 0.3 s for each batch."""

    def train_dataloader(self):
        loader = super().train_dataloader()
        read = loader._read

        def slowly(*args, **options):
            for batch in read(*args, **options):
                time.sleep(0.3)
                yield batch

        loader._read = slowly
        return loader


class SlowValidation(Callback):
    def on_validation_epoch_end(self, *args):
        time.sleep(2)


def test_the_wait_for_the_loader_is_logged_and_validations_do_not_count(shards):  # noqa: F811
    seen, module = Numbers(), module_of()
    trainer = trainer_of(Monitor(), seen, SlowValidation(), max_steps=3, val_check_interval=1)
    trainer.fit(module, data_of(module, shards, Slow, limit_val_predictions=0))
    for logged in seen.logged[1:]:
        assert 0.3 < logged["step_seconds"] < 2
        assert logged["data_wait"] > 0.5
        assert logged["data_wait"] * logged["step_seconds"] >= 0.29


def test_a_profiler_of_the_user_stays_and_only_data_wait_is_missing(shards):  # noqa: F811
    seen, profiler = Numbers(), SimpleProfiler()
    trainer = fit(module_of(), shards, Monitor(), seen, profiler=profiler)
    assert trainer.profiler is profiler
    assert {"samples_per_second", "grad_norm"} <= seen.logged[-1].keys()
    assert "data_wait" not in seen.logged[-1]


def test_groups_have_their_names_and_parts_their_norms(shards):  # noqa: F811
    seen = Numbers()
    encoder = MeanEncoder()
    encoder.linear.requires_grad_(True)
    module = module_of(encoder=encoder)
    module.optim = Optim(torch.optim.SGD, lr=1e-2, encoder_lr=1e-4, schedule="constant")
    fit(module, shards, Monitor(), seen, steps=1)
    (logged,) = seen.logged
    assert {round(value, 6) for name, value in logged.items() if name.startswith("lr_")} == {1e-2, 1e-4}
    parts = logged["grad_norm_mapper"], logged["grad_norm_encoder"]
    assert logged["grad_norm"] == pytest.approx((parts[0] ** 2 + parts[1] ** 2) ** 0.5, rel=1e-5)
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
    kinds = (("mapper", 1.0), ("mapper_no_decay", 1.0), ("encoder", 2.0))
    groups = [{"params": [w], "name": name, "lr": lr} for w, (name, lr) in zip(weights, kinds, strict=True)]
    assert dict(learning_rates(torch.optim.SGD(groups))) == {"lr_mapper": 1.0, "lr_encoder": 2.0}
    assert dict(learning_rates(torch.optim.SGD(weights[:1], lr=3.0))) == {"lr_0": 3.0}


def test_nearest_tokens_of_token_embeddings_are_those_tokens():
    lm = tiny_lm("opt")
    ids = torch.tensor([[97, 98, 99], [40, 41, 42]])
    tokens, cosine = nearest_tokens(lm, 7 * lm.embed(ids))
    assert tokens == [[lm.tokenizer.decode([i]) for i in row] for row in ids.tolist()]
    assert cosine == pytest.approx(1, abs=1e-5)
    assert token_norm(lm) > 0


def test_nearest_tokens_are_found_in_every_chunk(monkeypatch):
    lm = tiny_lm("gpt2")
    prefix = torch.randn(2, 3, lm.width)
    whole = nearest_tokens(lm, prefix)
    assert len(lm.tokenizer) < CHUNK
    monkeypatch.setattr("prefixvlm.lm.nearest_tokens.CHUNK", 10)
    chunked = nearest_tokens(lm, prefix)
    assert chunked[0] == whole[0]
    assert chunked[1] == pytest.approx(whole[1])
    weight = lm.model.get_input_embeddings().weight
    cosines = torch.nn.functional.cosine_similarity(prefix[:, :, None], weight, dim=-1)
    assert whole[0] == [[lm.tokenizer.decode([i]) for i in row] for row in cosines.argmax(-1).tolist()]


@pytest.mark.parametrize("images", [0, 2])
def test_a_validation_records_the_nearest_tokens_of_the_first_images(shards, images):  # noqa: F811
    module, monitor, history, seen = module_of(), Monitor(images=images), History(), Numbers()
    trainer = fit_with_two_validations(module, shards, monitor, history, seen)
    keys = [f"val-{i:03d}" for i in range(images)]
    assert list(monitor.nearest) == keys
    assert ("val/prefix_cosine" in seen.validated) is bool(images)
    if images:
        pixel_values = torch.stack([module.model.encoder.transform(image) for image in images_of(trainer, keys)])
        with torch.no_grad():
            tokens, cosine = nearest_tokens(module.model.lm, module.model.prefix_embeds(pixel_values))
        assert list(monitor.nearest.values()) == tokens
        assert seen.validated["val/prefix_cosine"] == pytest.approx(cosine, abs=1e-5)
    for example in history.examples:
        if example["step"] == 2:
            assert example["nearest"] == monitor.nearest.get(example["key"])


def images_of(trainer, keys):
    found = trainer.datamodule.images(keys, "val")
    return [Image.open(io.BytesIO(found[key])).convert("RGB") for key in keys]
