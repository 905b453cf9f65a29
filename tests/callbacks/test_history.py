"""Curves and example predictions that History stores in a checkpoint."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from prefixvlm.callbacks.history import History
from prefixvlm.task.captioning import Captioning
from prefixvlm.training.run_history import history
from tests.training.test_module import (  # noqa: F401
    data_of,
    fit_with_two_validations,
    module_of,
    pytestmark,
    shards,
    trainer_of,
)


@pytest.fixture(scope="module")
def checkpoint(shards, tmp_path_factory):  # noqa: F811
    """Checkpoints of a run with two validations: x by ModelCheckpoint, last at the end."""
    folder = tmp_path_factory.mktemp("history")
    keep = ModelCheckpoint(folder, filename="x", monitor="val/loss", save_top_k=-1, enable_version_counter=False)
    trainer = fit_with_two_validations(module_of(), shards, History(examples=2), keep)
    trainer.save_checkpoint(folder / "last.ckpt")
    return {name: torch.load(folder / f"{name}.ckpt", weights_only=True) for name in ("x", "last")}


def test_it_has_the_first_predictions_of_each_task_at_each_validation(checkpoint):
    examples = history(checkpoint["last"])["examples"]
    expected = [("captioning", "val-000"), ("captioning", "val-001"), ("vqa", "val-000"), ("vqa", "val-000")]
    assert [(e["step"], e["task"], e["key"]) for e in examples] == [(s, *rest) for s in (1, 2) for rest in expected]
    assert [e["id"] for e in examples[2:4]] == ["val-000-0", "val-000-1"]
    assert examples[0]["references"] == ["a"]
    assert examples[2]["prompt"] == "Question: is it 0? Answer:"
    assert isinstance(examples[0]["prediction"], str)
    assert examples[0]["correct"] in (0, 1)


def test_a_checkpoint_of_a_validation_has_that_validation(checkpoint):
    assert {e["step"] for e in history(checkpoint["x"])["examples"]} == {1, 2}


def test_it_has_the_curves_of_losses_and_scores(checkpoint):
    records = history(checkpoint["last"])["records"]
    assert {r["step"] for r in records if r["name"] == "train/loss"} == {1, 2}
    for name in ("val/loss", "val/vqa_accuracy", "val/captioning_cider"):
        assert [r["step"] for r in records if r["name"] == name] == [1, 2], name


def test_a_resumed_history_continues_and_reads_states_without_examples(checkpoint):
    state = checkpoint["last"]["callbacks"]["History"]
    callback = History()
    callback.load_state_dict(state)
    assert callback.state_dict() == state
    callback.examples.append({})
    assert len(state["examples"]) == 8
    callback.load_state_dict({"records": []})
    assert callback.examples == []
    assert history({"callbacks": {}})["examples"] == []


def test_no_examples_of_no_predictions(shards):  # noqa: F811
    callback = History()
    fit_with_two_validations(module_of(tasks={"captioning": Captioning()}), shards, callback, limit=0)
    assert callback.examples == []


def test_the_sanity_check_adds_no_examples(shards):  # noqa: F811
    module, callback = module_of(), History()
    trainer = trainer_of(callback, max_steps=1, val_check_interval=1)
    trainer.num_sanity_val_steps = 1
    trainer.fit(module, data_of(module, shards))
    assert {e["step"] for e in callback.examples} == {1}
