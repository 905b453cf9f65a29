"""The summary of a run, and the check of its monitored value."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from prefixvlm.build import score_kinds
from prefixvlm.config import compose_run
from prefixvlm.run import check_monitor, cut_texts, summary_of
from prefixvlm.task.captioning import Captioning
from prefixvlm.training.module import PrefixModule
from prefixvlm.training.optim import Optim
from prefixvlm.training.run_options import check_known, check_length
from prefixvlm.tune.adapters import Adapters
from tests.conftest import MeanEncoder, TinyMapper, tiny_lm

ROOT = Path(__file__).parents[1]


class WithHead(Captioning):
    def head(self, *widths):
        return nn.Linear(4, 2)


def test_the_summary_has_parameters_and_learning_rate_of_each_part():
    lm, encoder = tiny_lm("gpt2"), MeanEncoder()
    Adapters().apply(lm)
    encoder.linear.requires_grad_(True)
    optim = Optim(torch.optim.AdamW, lr=8e-4, encoder_lr=2e-6, lm_lr=1e-3, weight_decay=0.1)
    module = PrefixModule(encoder, TinyMapper(lm.width), lm, {"captioning": WithHead()}, optim)
    assert summary_of(module, ["adapters"]) == [
        "encoder                       0.00 M trained      0.00 M frozen   learning rate 2e-06, weight decay 0.1",
        "mapper                        0.00 M trained      0.00 M frozen   learning rate 0.0008, weight decay 0.1",
        "lm: adapters                  0.00 M trained      0.04 M frozen   learning rate 0.001, weight decay 0.1",
        "heads.captioning              0.00 M trained      0.00 M frozen   learning rate 0.0008, weight decay 0.1",
    ]


def kinds_of(monitor):
    task = monitor.split("/")[1].split("_")[0]
    known = task in ("captioning", "regression", "classification")
    return score_kinds(compose_run([f"task={task}"] if known else ["experiment=clip_pretrain"]))


@pytest.mark.parametrize(
    ("monitor", "right", "wrong"),
    [
        ("val/loss", "min", "max"),
        ("val/regression_mae", "min", "max"),
        ("val/regression_r2", "max", "min"),
        ("val/zero_shot_accuracy", "max", "min"),
        ("val/captioning_bleu_4", "max", "min"),
        ("val/classification_macro_f1", "max", "min"),
    ],
)
def test_the_wrong_monitor_mode_is_an_error(monitor, right, wrong):
    kinds = kinds_of(monitor)
    check_monitor(monitor, right, kinds)
    with pytest.raises(ValueError, match=f"monitor_mode is {wrong}, but {monitor} is best.*set monitor_mode={right}"):
        check_monitor(monitor, wrong, kinds)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_an_unknown_value_may_have_either_mode(mode):
    check_monitor("val/captioning_mean_length", mode, kinds_of("val/captioning_mean_length"))
    check_monitor("val/something", mode, kinds_of("val/captioning_x"))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("val/captioning_cidr", "did you mean val/captioning_cider?"),
        ("val/los", "did you mean val/loss?"),
        ("val_loss", "did you mean val/loss?"),
        ("val/vqa_accuracy", "accepted are"),
    ],
)
def test_a_misspelt_monitor_is_refused_before_training(name, hint):
    kinds = score_kinds(compose_run(["task=captioning"]))
    with pytest.raises(ValueError, match=f"^monitor is {name}, which no run with these tasks logs; ") as raised:
        check_known("monitor", name, kinds)
    assert hint in str(raised.value) or name == "val/vqa_accuracy"


@pytest.mark.parametrize("task", sorted(path.stem for path in (ROOT / "conf" / "task").glob("*.yaml")))
def test_every_task_may_monitor_its_main_score(task):
    kinds = score_kinds(compose_run([f"task={task}"]))
    for name in (*kinds, "val/prefix_cosine", "train/grad_norm_mapper", "train/lr_mapper"):
        check_known("monitor", name, kinds, ("val", "train", "test"))


@pytest.mark.parametrize("key", ["max_steps", "max_epochs"])
def test_a_run_of_no_steps_is_refused(key):
    with pytest.raises(ValueError, match=rf"^trainer.{key} is 0, so that nothing is trained; set it to 1 or more"):
        check_length({key: 0})


def test_a_frozen_part_has_no_learning_rate():
    lm = tiny_lm("gpt2")
    module = PrefixModule(
        MeanEncoder(), TinyMapper(lm.width), lm, {"captioning": Captioning()}, Optim(torch.optim.SGD, lr=1.0)
    )
    assert summary_of(module) == [
        "encoder                       0.00 M trained      0.00 M frozen",
        "mapper                        0.00 M trained      0.00 M frozen   learning rate 1, weight decay 0",
        "lm                            0.00 M trained      0.04 M frozen",
    ]


@pytest.mark.parametrize(
    ("number", "length", "world_size", "sentence"),
    [
        (0, 128, 1, ""),
        (3, 128, 1, "3 texts of training were cut at module.max_target_length=128 tokens, counted again in each epoch; "
         "set module.max_target_length to more to keep them whole"),
        (3, 128, 2, "3 texts of the first process were cut"),
        (3, None, 1, "at the end of the language model's context, counted again in each epoch; set mapper.prefix"),
    ],
)  # fmt: skip
def test_a_run_says_how_many_texts_were_cut_and_the_key_to_set(number, length, world_size, sentence):
    trainer = SimpleNamespace(world_size=world_size)
    module = SimpleNamespace(cut_texts=torch.tensor(number), max_target_length=length, trainer=trainer)
    assert sentence in cut_texts(module)
    assert bool(cut_texts(module)) == bool(number)
    assert not cut_texts(SimpleNamespace(trainer=trainer))  # the module of contrastive pre-training counts none
