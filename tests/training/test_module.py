"""PrefixModule under a real Trainer on real shards, and its checkpoints."""

import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import nn

from prefixvlm.batch import IGNORE_INDEX
from prefixvlm.callbacks.frozen_guard import FrozenGuard
from prefixvlm.callbacks.throughput import Throughput
from prefixvlm.data.datamodule import ShardDataModule
from prefixvlm.data.loading.eval_loader import EvalLoader
from prefixvlm.data.loading.mixture import find_sources
from prefixvlm.data.loading.plan.rank_worker_split import Piece
from prefixvlm.data.loading.train_loader import TrainLoader
from prefixvlm.data.shard_cache import ShardCache
from prefixvlm.data.shards.write import write_shards
from prefixvlm.task.captioning import Captioning
from prefixvlm.task.vqa import Vqa
from prefixvlm.training.checkpoint import KEY, RunRecord
from prefixvlm.training.checkpoint_file import AtomicCheckpointIO, load
from prefixvlm.training.module import PrefixModule
from prefixvlm.training.optim import Optim
from tests.conftest import WIDTH, MeanEncoder, TinyMapper, tiny_lm
from tests.data.conftest import png

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning"),  # Lightning with torch 2.15
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode"),  # the frozen parts: that is the point
]
NUM = {"train": 4, "val": 7, "test": 5}


def module_of(seed=0, lm_seed=0, encoder=None, tasks=None, family="gpt2", width=WIDTH, config=None):
    torch.manual_seed(seed)
    lm = tiny_lm(family, lm_seed, width)
    torch.manual_seed(seed)
    mapper = TinyMapper(lm.width)
    torch.manual_seed(7)
    encoder = encoder or MeanEncoder()
    if tasks is None:
        tasks = {"captioning": Captioning(decoding={"max_new_tokens": 3}), "vqa": Vqa(decoding={"max_new_tokens": 3})}
    return PrefixModule(encoder, mapper, lm, tasks, Optim(torch.optim.AdamW, lr=1e-2), record=RunRecord(config))


def raw(split):
    for i in range(NUM[split]):
        key = f"{split}-{i:03d}"
        # Unequal lengths and unequal letters: the small last batch has more tokens, and others, than the first.
        content = {
            "captions": ["abcdefg"[i] * (1 + 8 * i)],
            "questions": [{"id": f"{key}-{j}", "question": f"is it {j}?", "answers": [str(i)]} for j in range(2)],
        }
        yield key, {"png": png(40 * i), "json": json.dumps(content).encode()}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shards"
    write_shards({split: raw(split) for split in NUM}, folder, "a test", "none", samples_per_shard=3)
    return str(folder)


def data_of(module, shards, kind=ShardDataModule, **keywords):
    return kind(shards, **{"batch_size": 3, "collates": module.collates, **keywords})


def trainer_of(*callbacks, **keywords):
    saves = any(isinstance(callback, Checkpoint) for callback in callbacks)
    return Trainer(
        accelerator="cpu", devices=1, enable_checkpointing=saves, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False, callbacks=list(callbacks),
        log_every_n_steps=1, **{"logger": False, "profiler": Throughput(), **keywords},
    )  # fmt: skip


def test_val_loss_is_the_mean_over_all_tokens_of_uneven_batches(shards):
    module = module_of(tasks={"captioning": Captioning()})
    data = data_of(module, shards)
    trainer = trainer_of()
    trainer.validate(module, data, verbose=False)
    with torch.no_grad():
        losses = [module.model(batch) for (batch,) in data.val_dataloader()[0]]
    assert len(losses) == 3
    expected = torch.cat(losses).mean()
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    mean_of_means = torch.stack([batch.mean() for batch in losses]).mean()
    assert abs(mean_of_means - expected) > 1e-3 * expected  # what this test tells apart


def test_val_loss_is_reset_at_each_validation(shards):
    module = module_of()
    data = data_of(module, shards)
    trainer = trainer_of()
    values = []
    for scale in (1.0, 3.0, 1.0):
        with torch.no_grad():
            module.model.mapper.linear.weight.mul_(scale)
        trainer.validate(module, data, verbose=False)
        values.append(trainer.callback_metrics["val/loss"].item())
        with torch.no_grad():
            module.model.mapper.linear.weight.div_(scale)
    assert values[0] == pytest.approx(values[2], rel=1e-5)
    assert values[1] != pytest.approx(values[0], rel=1e-3)


def test_a_test_scores_each_task_over_all_its_items(shards):
    module = module_of()
    trainer = trainer_of()
    trainer.test(module, data_of(module, shards), verbose=False)
    keys = [f"test-{i:03d}" for i in range(NUM["test"])]
    assert [p.key for p in module.predictions["captioning"]] == keys
    assert [p.id for p in module.predictions["vqa"]] == [f"{key}-{j}" for key in keys for j in range(2)]
    assert module.reports["vqa"]["num_items"] == 10
    for name, report in module.reports.items():
        for score, value in report["scores"].items():
            assert trainer.callback_metrics[f"test/{name}_{score}"].item() == pytest.approx(value)
    predictions, reports = module.predictions, module.reports
    trainer.test(module, data_of(module, shards, eval_batch_size=2), verbose=False)
    assert (module.predictions, module.reports) == (predictions, reports)  # not twice as many


class Losses(Callback):
    """Records the scores of each validation and the images of its predictions."""

    def __init__(self):
        self.scores, self.keys = [], []

    def on_validation_end(self, trainer, module):
        scores = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        self.scores.append(scores)
        self.keys.append({name: [p.key for p in found] for name, found in module.predictions.items()})


def fit_with_two_validations(module, shards, *callbacks, limit=3, **keywords):
    data = data_of(module, shards, batch_size=2, limit_val_predictions=limit)
    trainer = trainer_of(*callbacks, max_steps=2, val_check_interval=1, **keywords)
    trainer.fit(module, data)
    return trainer


def test_each_validation_scores_the_predictions_of_the_same_first_images(shards):
    module, seen = module_of(), Losses()
    fit_with_two_validations(module, shards, seen)
    keys = [f"val-{i:03d}" for i in range(3)]
    assert seen.keys == [{"captioning": keys, "vqa": [key for key in keys for _ in range(2)]}] * 2
    for scores in seen.scores:
        assert scores.keys() >= {"val/loss", "val/captioning_exact_match", "val/captioning_cider", "val/vqa_accuracy"}
    assert {f"val/vqa_{name}" for name in module.reports["vqa"]["scores"]} <= seen.scores[1].keys()
    assert seen.scores[1]["val/vqa_accuracy"] == module.reports["vqa"]["scores"]["accuracy"]


def test_predictions_in_validation_can_be_switched_off_without_the_loss(shards):
    seen = Losses()
    fit_with_two_validations(module_of(), shards, seen, limit=0)
    assert [set(scores) for scores in seen.scores] == [{"val/loss"}] * 2
    assert seen.keys == [{"captioning": [], "vqa": []}] * 2


def test_predictions_change_neither_the_validation_loss_nor_the_training(shards):
    with_them, without = Losses(), Losses()
    first, second = module_of(), module_of()
    fit_with_two_validations(first, shards, with_them)
    fit_with_two_validations(second, shards, without, limit=0)
    assert [s["val/loss"] for s in with_them.scores] == [s["val/loss"] for s in without.scores]
    assert torch.equal(first.model.mapper.linear.weight, second.model.mapper.linear.weight)


class Losing(ShardDataModule):
    """Data whose second test loader leaves out its last batch."""

    def test_dataloader(self):
        loaders = super().test_dataloader()
        plan = loaders[1].plan
        loaders[1].plan = replace(plan, deal=replace(plan.deal, pieces=[Piece(0, 0, 3)]))
        return loaders


def test_a_lost_test_sample_is_an_error(shards):
    module = module_of()
    with pytest.raises(ValueError, match=r"\b3 images were predicted.*\b5\b"):
        trainer_of().test(module, data_of(module, shards, Losing), verbose=False)


class Change(Callback):
    def __init__(self, find):
        self.find = find

    def on_train_batch_end(self, trainer, module, *args):
        with torch.no_grad():
            self.find(module.model).view(-1)[0] += 1


class NormEncoder(MeanEncoder):
    """A frozen encoder with BatchNorm."""

    def __init__(self, affine=True):
        super().__init__()
        self.norm = nn.BatchNorm2d(3, affine=affine).requires_grad_(False)

    def forward(self, pixel_values):
        return super().forward(self.norm(pixel_values))


def fit(module, shards, *callbacks):
    trainer_of(*callbacks, max_steps=1, limit_val_batches=0).fit(module, data_of(module, shards))


@pytest.mark.parametrize(
    "find",
    [
        lambda model: model.lm.model.transformer.h[1].mlp.c_fc.weight,
        lambda model: model.lm.model.transformer.ln_f.bias,
        lambda model: model.encoder.linear.weight,
    ],
)
def test_the_guard_detects_a_change_of_a_frozen_weight(shards, find):
    with pytest.raises(RuntimeError, match="frozen weights changed"):
        fit(module_of(), shards, FrozenGuard(), Change(find))


@pytest.mark.parametrize("affine", [True, False])
def test_the_guard_detects_a_change_of_batch_norm_statistics(shards, affine):
    module = module_of(encoder=NormEncoder(affine))
    module.model.encoder.train()
    with pytest.raises(RuntimeError, match="frozen weights changed"):
        fit(module, shards, FrozenGuard())


def test_the_guard_lets_the_mapper_train(shards):
    module = module_of(encoder=NormEncoder().eval())
    before = module.model.mapper.linear.weight.clone()
    frozen = {name: value.clone() for name, value in module.model.lm.state_dict().items()}
    fit(module, shards, FrozenGuard())
    assert not torch.equal(module.model.mapper.linear.weight, before)
    assert all(torch.equal(value, frozen[name]) for name, value in module.model.lm.state_dict().items())


def naive_losses(module, samples):
    """Return the cross entropy of each target token of a copy of the module in float64, and the copy.

    By the Hugging Face forward, a sample at a time, without padding, chunks or our splice.
    """
    model = copy.deepcopy(module.model).double()
    losses = []
    for sample in samples:
        ids = torch.tensor([*model.lm.tokenizer(sample.captions[0]).input_ids, model.lm.eos_id])
        prefix = model.mapper(model.encoder(model.encoder.transform(sample.picture).double()[None]))[0]
        embeds = torch.cat([prefix, model.lm.embed(ids)])[None]
        logits = model.lm.model(inputs_embeds=embeds).logits[0, len(prefix) - 1 : -1]
        losses.append(logits.logsumexp(1) - logits[torch.arange(len(ids)), ids])
    return losses, model


def gradient_of(model, loss):
    return torch.autograd.grad(loss, list(model.mapper.parameters()))


def assert_gradients_equal(ours, expected):
    for one, other in zip(ours, expected, strict=True):
        assert one.abs().max() > 1e-4
        torch.testing.assert_close(one.double(), other, atol=1e-6, rtol=1e-4)


class Gradients(Callback):
    """Records the gradients of the mapper before each step of the optimizer, and the keys of each batch."""

    def __init__(self):
        self.gradients, self.keys = [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.keys.append(batch.keys)

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.gradients.append([p.grad.clone() for p in module.model.mapper.parameters()])


def samples_of(shards):
    return {
        sample.key: sample for sample in EvalLoader(find_sources(shards, "train", ShardCache()), 1, list).samples(True)
    }


@pytest.mark.parametrize("accumulate", [1, 2, 3])  # of 4 batches; the last step of 3 has one
def test_gradients_are_those_of_the_mean_over_all_tokens_of_the_accumulated_batches(shards, accumulate):
    module, seen = module_of(tasks={"captioning": Captioning()}), Gradients()
    module.optim = Optim(torch.optim.SGD, lr=0.0)
    losses, model = naive_losses(module, samples := samples_of(shards).values())
    losses = dict(zip((sample.key for sample in samples), losses, strict=True))
    trainer = trainer_of(seen, max_epochs=1, limit_val_batches=0, accumulate_grad_batches=accumulate)
    trainer.fit(module, data_of(module, shards, batch_size=1))
    every = [key for keys in seen.keys for key in keys]
    steps = [every[start : start + accumulate] for start in range(0, 4, accumulate)]
    assert len(seen.gradients) == len(steps)
    for keys, gradients in zip(steps, seen.gradients, strict=True):
        expected = torch.cat([losses[key] for key in keys]).mean()
        assert_gradients_equal(gradients, gradient_of(model, expected))
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(expected.item(), rel=1e-5)  # of the last


def test_two_batches_of_two_train_as_one_of_four(shards):
    """Under SGD, whose steps show the size of a gradient, with captions of 1 to 25 letters."""
    weights = []
    for size in (2, 4):
        module = module_of(tasks={"captioning": Captioning()})
        module.optim = Optim(torch.optim.SGD, lr=0.3)
        trainer = trainer_of(max_epochs=3, limit_val_batches=0, accumulate_grad_batches=4 // size)
        trainer.fit(module, data_of(module, shards, batch_size=size))
        assert trainer.global_step == 3
        weights.append(module.model.mapper.linear.weight.detach())
    start = module_of().model.mapper.linear.weight
    assert (weights[0] - start).abs().max() > 1e-3
    torch.testing.assert_close(weights[0], weights[1], atol=1e-6, rtol=1e-5)


def test_the_mean_of_the_ranks_gradients_is_that_of_the_mean_over_all_tokens(shards, monkeypatch):
    module = module_of(tasks={"captioning": Captioning()})
    monkeypatch.setattr(module, "log", lambda *args, **keywords: None)
    losses, model = naive_losses(module, samples_of(shards).values())
    sources = find_sources(shards, "train", ShardCache())
    loaders = [TrainLoader(sources, 2, module.collates.train, rank=rank, world=2) for rank in range(2)]
    batches = [batch for loader in loaders for batch in loader]
    numbers = [int((batch.labels != IGNORE_INDEX).sum()) for batch in batches]
    assert numbers[0] != numbers[1]  # else a mean over each rank's own tokens would be right
    with torch.no_grad():
        sums = [module.model(batch).sum(dtype=torch.float64) for batch in batches]
    total = torch.tensor([[sum(sums)], [sum(numbers)]])
    strategy = SimpleNamespace(reduce=lambda own, reduce_op: {"sum": total, "mean": total / 2}[reduce_op])
    module.trainer = SimpleNamespace(world_size=2, strategy=strategy, accumulate_grad_batches=1)
    gradients = [gradient_of(module.model, module.training_step(batch, 0)) for batch in batches]
    mean = [(one + other) / 2 for one, other in zip(*gradients, strict=True)]  # what DDP makes of them
    assert_gradients_equal(mean, gradient_of(model, torch.cat(losses).mean()))


def test_training_lowers_the_loss(shards):
    module = module_of(tasks={"captioning": Captioning()})
    data, trainer = data_of(module, shards), trainer_of()
    trainer.validate(module, data, verbose=False)
    before = trainer.callback_metrics["val/loss"].item()
    trainer_of(max_steps=40, limit_val_batches=0).fit(module, data)
    trainer.validate(module, data, verbose=False)
    assert trainer.callback_metrics["val/loss"].item() < 0.9 * before


def saved(module):
    checkpoint = {"state_dict": dict(module.state_dict()), "global_step": 0}
    module.on_save_checkpoint(checkpoint)
    return checkpoint


def test_a_checkpoint_holds_only_the_trained_tensors_and_restores_them(tmp_path):
    config = {key: {} for key in ("encoder", "lm", "mapper", "module", "data", "trainer", "task")} | {"seed": 1}
    module, other = module_of(seed=1, config=config), module_of(seed=2)
    AtomicCheckpointIO().save_checkpoint(saved(module), tmp_path / "x.ckpt")
    checkpoint = load(tmp_path / "x.ckpt")
    assert set(checkpoint["state_dict"]) == {"model.mapper.linear.weight", "model.mapper.linear.bias"}
    assert checkpoint[KEY]["config"] == config
    assert not torch.equal(other.model.mapper.linear.weight, module.model.mapper.linear.weight)
    other.load_trained(checkpoint)
    assert torch.equal(other.model.mapper.linear.weight, module.model.mapper.linear.weight)
    assert torch.equal(other.model.mapper.linear.bias, module.model.mapper.linear.bias)


def test_a_trained_encoder_is_in_the_checkpoint_and_not_in_the_identity():
    encoder = NormEncoder()
    encoder.requires_grad_(True)
    module = module_of(encoder=encoder)
    names = set(saved(module)["state_dict"])
    assert {"model.encoder.linear.weight", "model.encoder.norm.running_mean"} <= names
    before = module.identity()
    with torch.no_grad():
        encoder.linear.weight.add_(1)
        encoder.norm.running_mean.add_(1)
    assert module.identity() == before


def test_random_numbers_continue_where_they_stopped():
    module = module_of()
    checkpoint = saved(module)
    expected = torch.rand(3)
    torch.manual_seed(99)
    module.on_load_checkpoint(checkpoint)
    assert torch.equal(torch.rand(3), expected)


def renamed(state):
    state["model.mapper.other.bias"] = state.pop("model.mapper.linear.bias")


def reshaped(state):
    state["model.mapper.linear.bias"] = torch.zeros(5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (renamed, ["model.mapper.linear.bias", "model.mapper.other.bias"]),
        (reshaped, ["model.mapper.linear.bias (96,)", "model.mapper.linear.bias (5,)"]),
    ],
)
def test_other_trained_tensors_are_refused_and_nothing_is_loaded(change, words):
    checkpoint, module = saved(module_of(seed=1)), module_of(seed=2)
    change(checkpoint["state_dict"])
    before = module.model.mapper.linear.weight.clone()
    with pytest.raises(ValueError, match="does not fit") as caught:
        module.load_trained(checkpoint)
    assert all(word in str(caught.value) for word in words)
    assert torch.equal(module.model.mapper.linear.weight, before)


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("lm", {"lm_seed": 1}),
        ("lm", {"family": "opt"}),
        ("encoder", {"encoder": NormEncoder()}),
    ],
)
def test_another_frozen_part_is_refused_with_both_fingerprints(part, other):
    module, other = module_of(), module_of(**other)
    assert module.identity()[part] != other.identity()[part]
    with pytest.raises(ValueError, match=f"trained with {part} ") as caught:
        other.load_trained(saved(module))
    assert module.identity()[part] in str(caught.value)
    assert other.identity()[part] in str(caught.value)


def test_other_features_of_the_same_encoder_are_refused():
    module, other = (module_of(config={"encoder": {"features": "patch", "layer": layer}}) for layer in (None, -2))
    with pytest.raises(ValueError, match=r"trained with encoder .*layer=None.*layer=-2"):
        other.load_trained(saved(module))


def test_another_programs_checkpoint_is_refused():
    with pytest.raises(ValueError, match="prefixvlm"):
        module_of().load_trained({"state_dict": {}})
