"""Heads of another run's checkpoint: loaded, left out, refused, or replaced by new ones."""

import logging

import pytest
import torch

from prefixvlm.model.trained_state import trained_state
from prefixvlm.task.captioning import Captioning
from prefixvlm.task.classification_head import ClassificationHead
from prefixvlm.task.regression import Regression
from prefixvlm.training.checkpoint import KEY
from tests.training.test_module import module_of

TWO = {"kind": {"_target_": "x", "classes": ["a", "b"]}, "size": {"_target_": "x", "value": "size"}}


def made(seed=0, classes=("a", "b"), **tasks):
    tasks = tasks or {"kind": ClassificationHead(list(classes)), "size": Regression("size")}
    return module_of(seed, tasks=tasks, config={"task": {name: TWO[name] for name in tasks if name in TWO}})


def checkpoint_of(module):
    checkpoint = {"state_dict": {}, "global_step": 3}
    module.on_save_checkpoint(checkpoint)
    return checkpoint


def start_from(module, checkpoint, tmp_path, monkeypatch):
    path = tmp_path / "x.ckpt"
    path.touch()
    monkeypatch.setattr("prefixvlm.training.module.load", lambda _: checkpoint)
    module.start_from(str(path))


def test_an_evaluation_of_one_task_ignores_the_heads_of_others():
    checkpoint = checkpoint_of(made(seed=1))
    module = made(size=Regression("size"))
    module.load_trained(checkpoint)
    for name, tensor in trained_state(module).items():
        assert torch.equal(tensor, checkpoint["state_dict"][name])


def test_a_head_with_other_options_is_refused():
    checkpoint = checkpoint_of(made(seed=1))
    with pytest.raises(ValueError, match=r"head of task kind was trained with classes=\['a', 'b'\], but here"):
        made(classes=("b", "a")).load_trained(checkpoint)
    text = checkpoint_of(module_of(1, tasks={"captioning": Captioning()}))
    with pytest.raises(ValueError, match="the checkpoint has no head of task kind"):
        made().load_trained(text)


@pytest.mark.parametrize("classes", [("b", "a"), ("a", "b", "c")])
def test_a_new_run_replaces_a_head_with_other_options_and_warns(classes, tmp_path, monkeypatch, caplog):
    checkpoint, module = checkpoint_of(made(seed=1)), made(seed=2, classes=classes)
    fresh = {name: tensor.clone() for name, tensor in trained_state(module).items()}
    with caplog.at_level(logging.WARNING):
        start_from(module, checkpoint, tmp_path, monkeypatch)
    assert "the head of task kind starts from random weights: it was trained with other options" in caplog.text
    for name, tensor in trained_state(module).items():
        expected = fresh if name.startswith("model.heads.kind.") else checkpoint["state_dict"]
        assert torch.equal(tensor, expected[name]), name
    assert module.lineage[-1]["step"] == 3
    assert checkpoint[KEY]["config"]["task"] == TWO


def test_a_new_run_starts_a_missing_head_from_random_weights(tmp_path, monkeypatch):
    checkpoint, module = checkpoint_of(module_of(1, tasks={"captioning": Captioning()})), made(seed=2)
    start_from(module, checkpoint, tmp_path, monkeypatch)
    assert torch.equal(module.model.mapper.linear.weight, checkpoint["state_dict"]["model.mapper.linear.weight"])


def test_a_run_resumes_only_with_its_own_tasks():
    checkpoint = checkpoint_of(made(seed=1))
    with pytest.raises(ValueError, match="the run in this folder trains task kind, size, not size; set hydra.run.dir"):
        made(size=Regression("size")).on_load_checkpoint(checkpoint)
    made().on_load_checkpoint(checkpoint)
