"""Collate functions on samples of which only some have labels."""

import random

import pytest
import torch
from PIL import Image

from prefixvlm.batch import NothingToLearnError
from prefixvlm.data.loading.mixture import find_sources
from prefixvlm.data.loading.train_loader import TrainLoader
from prefixvlm.data.sample import Question, Sample
from prefixvlm.data.shard_cache import ShardCache
from prefixvlm.data.shards.write import write_shards
from prefixvlm.task.captioning import Captioning
from prefixvlm.task.classification_head import ClassificationHead
from prefixvlm.task.regression import Regression
from prefixvlm.task.rows.loader_rows import TrainingRows
from prefixvlm.task.vqa import Vqa
from tests.conftest import collator_of, tiny_model

CLASSES = ["a", "b"]
TASKS = {"classification": ClassificationHead(CLASSES, "kind"), "regression": Regression("size")}


def sample(number, **fields):
    return Sample(f"k{number}", Image.new("RGB", (8, 8)), **fields)


@pytest.fixture
def rows():
    return TrainingRows(TASKS, collator_of(tiny_model("gpt2")))


def test_a_task_that_has_no_rows_gives_way_to_another(rows):
    some = [sample(0), sample(1, labels={"kind": "b"}), sample(2)]
    for seed in range(20):
        batch = rows(some, random.Random(seed))
        assert batch.task == "classification"
        assert batch.head_targets.tolist() == [[1.0]]
    both = [sample(0, labels={"kind": "a"}, values={"size": 1.0})]
    assert {rows(both, random.Random(seed)).task for seed in range(20)} == set(TASKS)


def test_samples_without_training_rows_are_an_error(rows):
    with pytest.raises(NothingToLearnError, match="k0 on has training rows for task classification, regression; set"):
        rows([sample(0), sample(1)], random.Random(0))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_unlabelled_samples_are_not_bad_samples(tmp_path, batch_size, workers):
    image = (tmp_path / "x.png", Image.new("RGB", (8, 8)).save(tmp_path / "x.png"))[0].read_bytes()
    members = [{"png": image, "json": b'{"labels": {"kind": "b"}}' if n % 5 == 0 else b"{}"} for n in range(40)]
    write_shards(
        {"train": [(f"k{n:02}", each) for n, each in enumerate(members)]}, tmp_path / "shards", "a test", "none"
    )
    collate = TrainingRows({"classification": TASKS["classification"]}, collator_of(tiny_model("gpt2")))
    loader = TrainLoader(
        find_sources(str(tmp_path / "shards"), "train", ShardCache()),
        batch_size,
        collate,
        max_bad_fraction=0.0,
        num_workers=workers,
    )
    batches = list(loader)
    assert len(batches) == 40 // batch_size
    assert all(batch.head_targets.shape[1] == 1 and len(batch.head_targets) for batch in batches)
    assert len(loader.bad_samples) == 0


def test_a_data_set_without_labels_is_an_error(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    image = (tmp_path / "x.png").read_bytes()
    write_shards(
        {"train": [(f"k{n}", {"png": image, "json": b"{}"}) for n in range(6)]}, tmp_path / "s", "a test", "none"
    )
    collate = TrainingRows(TASKS, collator_of(tiny_model("gpt2")))
    loader = TrainLoader(find_sources(str(tmp_path / "s"), "train", ShardCache()), 2, collate)
    with pytest.raises(
        ValueError, match="has training rows for task classification, regression;.*the same holds for its whole"
    ):
        list(loader)


def test_tasks_that_generate_text_share_a_validation_batch():
    tasks = {"captioning": Captioning(), **TASKS}
    rows = TrainingRows(tasks, collator_of(tiny_model("gpt2")), mixed=True)
    some = [sample(0, captions=("a",), labels={"kind": "a"}), sample(1, captions=("b",))]
    batches = rows(some, random.Random(0))
    assert [batch.task for batch in batches] == ["captioning", "classification"]
    assert torch.equal(batches[1].head_targets, torch.tensor([[0.0]]))


def asked(number, caption=False, question=False):
    return sample(
        number,
        captions=("a red star",) * caption,
        questions=(Question(f"q{number}", "what?", ("a star",)),) * question,
    )


def test_a_sample_with_a_text_for_another_task_is_left_out():
    """As corrections of users, of which some are of captions and some of answers."""
    tasks = {"captioning": Captioning("C:"), "vqa": Vqa()}
    rows, mixed = (
        TrainingRows(tasks, lambda rows, supervised, task: (task, [row.key for row in rows]), mixed)
        for mixed in (False, True)
    )
    samples = [asked(0, caption=True), asked(1, question=True), asked(2, caption=True, question=True)]
    found = dict(rows(samples, random.Random(seed)) for seed in range(9))
    assert found == {"captioning": ["k0", "k2"], "vqa": ["k1", "k2"]}
    assert {rows(samples[:1], random.Random(seed))[0] for seed in range(9)} == {"captioning"}
    assert mixed(samples, random.Random(0)) == [("captioning", ["k0", "k2", "k1", "k2"])]
    for each in (rows, mixed):
        with pytest.raises(ValueError, match="'k3' has no"):
            each([*samples, asked(3)], random.Random(0))
    with pytest.raises(ValueError, match="'k1' has no caption"):
        TrainingRows({"captioning": Captioning()}, rows.collate)(samples, random.Random(0))
