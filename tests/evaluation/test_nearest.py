"""The baseline of the nearest training image: its caption, scored as the model's."""

import numpy as np
import pytest

from prefixvlm.data.datamodule import ShardDataModule
from prefixvlm.data.shards.write import write_shards
from prefixvlm.evaluation.evaluate import Evaluator
from prefixvlm.evaluation.nearest import nearest_captions, nearest_trial
from prefixvlm.task.captioning import Captioning
from prefixvlm.task.results.prediction import Prediction
from prefixvlm.task.retrieval import Retrieval
from prefixvlm.task.vqa import Vqa
from tests.evaluation.test_demonstrations import COLOURS, raw, shards  # noqa: F401
from tests.training.test_module import data_of, module_of


def test_each_test_image_has_the_caption_of_the_training_image_of_the_largest_cosine(shards):  # noqa: F811
    module = module_of()
    found = nearest_captions(module.model.encoder, data_of(module, shards, ShardDataModule))
    unit = {key: np.array(c) / np.linalg.norm(c) for split in COLOURS.values() for key, c in split.items()}
    for key in COLOURS["test"]:
        best = max(COLOURS["train"], key=lambda other, key=key: unit[other] @ unit[key])
        assert found[key] == f"this is {best}"


def test_its_captions_are_scored_in_place_of_the_models():
    truth = ["a red square on the wall ."]
    predictions = [Prediction("captioning", key, key, "", "wrong", truth, 0.0) for key in ("a", "b")]
    tasks = {"captioning": Captioning(), "vqa": Vqa(), "retrieval": Retrieval()}
    captions = {"a": truth[0], "b": "nothing like it"}
    reports, nearest = nearest_trial(tasks, {"captioning": predictions, "vqa": [], "retrieval": []}, {}, captions)
    assert [(p.prediction, p.correct) for p in nearest["captioning"]] == [(truth[0], 1), ("nothing like it", 0)]
    assert reports["captioning"]["scores"]["exact_match"] == 50
    assert reports.keys() == {"captioning"}  # the nearest image has other questions, and no likelihoods


def test_it_needs_a_task_with_captions(shards):  # noqa: F811
    module = module_of(tasks={"vqa": Vqa()})
    with pytest.raises(ValueError, match="no evaluated task captions images; set nearest=false"):
        Evaluator(module, None, lambda **_: data_of(module, shards, ShardDataModule), [], nearest=True)


def test_training_images_without_captions_are_an_error(tmp_path):
    bare = {split: [(key, {"png": members["png"]}) for key, members in raw(split)] for split in COLOURS}
    write_shards(bare, tmp_path / "bare", "a test", "none")
    module = module_of()
    with pytest.raises(ValueError, match="no training image has a caption; set nearest=false"):
        nearest_captions(module.model.encoder, data_of(module, str(tmp_path / "bare"), ShardDataModule))
