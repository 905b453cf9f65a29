"""Configuration of an evaluation from the checkpoint, the benchmark and the command line."""

import pytest
from omegaconf import OmegaConf

from prefixvlm import build
from prefixvlm.data.shards.write import write_shards
from prefixvlm.evaluation.config import evaluation_config
from prefixvlm.evaluation.options import check_options
from tests.data.conftest import raw_samples
from tests.test_conf import composed

VQA, CAPTIONING = "prefixvlm.task.vqa.Vqa", "prefixvlm.task.captioning.Captioning"
TRAINED = {
    "seed": 3,
    "trainer": {"precision": "32-true"},
    "data": {"shards": "data/trained", "batch_size": 32, "eval_batch_size": 16, "blind": True, "seed": 3},
    "task": {
        "captioning": {"_target_": CAPTIONING, "prompt": "Caption:"},
        "vqa": {
            "_target_": VQA, "prompt": "Q: {question} A:", "answers": ["yes", "no"], "metric": "exact_match",
            "decoding": {"method": "beam", "num_beams": 3},
        },
    },
}  # fmt: skip


def evaluation(*overrides, trained=TRAINED):
    return evaluation_config(build.plain(composed("eval", "ckpt=x", *overrides)), trained)


def test_without_options_it_is_the_trained_configuration_with_images():
    assert evaluation() == {**TRAINED, "data": {**TRAINED["data"], "blind": False}}


def test_null_options_of_a_benchmark_are_those_of_training():
    task = evaluation("benchmark=vqav2")["task"]
    assert task == {"vqa": {**TRAINED["task"]["vqa"], "metric": "vqa"}}


def test_a_benchmarks_option_may_be_changed():
    changes = ["benchmark.task.vqa.prompt='{question} Short answer:'", "benchmark.task.vqa.answers=[red]"]
    vqa = evaluation("benchmark=vqav2", *changes)["task"]["vqa"]
    assert vqa["prompt"] == "{question} Short answer:"
    assert vqa["answers"] == ["red"]
    assert vqa["decoding"] == TRAINED["task"]["vqa"]["decoding"]


@pytest.mark.parametrize("known", [None, {}, {"captioning": TRAINED["task"]["captioning"]}])
def test_a_benchmark_of_a_task_that_was_not_trained_has_the_tasks_own_defaults(known):
    assert evaluation("benchmark=gqa", trained={**TRAINED, "task": known})["task"] == {
        "vqa": {"_target_": VQA, "metric": "gqa"}
    }


def test_a_benchmark_without_a_task_evaluates_all_trained_tasks():
    assert evaluation("benchmark=easy_vqa")["task"] == TRAINED["task"]


def test_a_task_on_the_command_line_takes_precedence():
    task = evaluation("benchmark=vqav2", "task=captioning", "task.captioning.prompt=A photo of")["task"]
    assert set(task) == {"captioning"}
    assert task["captioning"]["prompt"] == "A photo of"


def test_options_take_precedence_over_the_data_of_a_benchmark():
    data = evaluation("benchmark=vqav2")["data"]
    assert data == {**TRAINED["data"], "shards": "data/vqav2", "test_split": "val", "blind": False}
    data = evaluation("benchmark=vqav2", "shards=/x", "split=test", "limit=5", "batch_size=2")["data"]
    changed = {"shards": "/x", "test_split": "test", "limit_test": 5, "eval_batch_size": 2, "blind": False}
    assert data == {**TRAINED["data"], **changed}


def test_the_configuration_of_the_checkpoint_is_not_modified():
    before = OmegaConf.to_yaml(OmegaConf.create(TRAINED))
    evaluation("benchmark=vqav2", "limit=5")
    assert OmegaConf.to_yaml(OmegaConf.create(TRAINED)) == before


def test_demonstrations_are_not_explained():
    with pytest.raises(ValueError, match="inspect explains what is said without demonstrations; set few_shot.shots=0"):
        check_options(build.plain(composed("eval", "ckpt=x", "inspect=2", "few_shot.shots=1")))
    check_options(build.plain(composed("eval", "ckpt=x", "inspect=2")))


def test_missing_shards_of_a_benchmark_are_an_error_with_files_and_command(tmp_path):
    cfg = build.plain(composed("eval", "ckpt=x", "benchmark=vqav2", f"shards={tmp_path}/none"))
    with pytest.raises(ValueError, match=f"{tmp_path}/none") as caught:
        check_options(cfg)
    (note,) = caught.value.__notes__
    assert "--val-questions" in note
    assert "v2_OpenEnded_mscoco_val2014_questions.json" in note
    assert "--train" not in note  # this benchmark is of the validation split
    assert note.splitlines()[-1].strip().startswith("prefixvlm shards vqav2 --images DIR --val-questions v2_")
    assert note.splitlines()[-1].endswith("/none")


def test_existing_shards_are_accepted(tmp_path):
    write_shards({"val": raw_samples(2)}, tmp_path / "shards", "a test", "none")
    check_options(build.plain(composed("eval", "ckpt=x", "benchmark=vqav2", f"shards={tmp_path}/shards")))
    check_options(build.plain(composed("eval", "ckpt=x")))
    with pytest.raises(ValueError, match="holds no test samples, only val; make the shards as follows") as caught:
        check_options(build.plain(composed("eval", "ckpt=x", "benchmark=gqa", f"shards={tmp_path}/shards")))
    assert "prefixvlm shards gqa" in caught.value.__notes__[0]


def test_what_a_checkpoint_says_is_not_fetched_nor_where_shards_are_kept():
    data = {"shards": "https://host/${oc.env:TOKEN}", "cache_dir": "/home/me", "cache_limit": 0.001, "seed": 3}
    trained = {**TRAINED, "data": data}
    with pytest.raises(ValueError, match=r"data.shards=https://host/\$\{oc.env:TOKEN\}, and nothing is fetched"):
        evaluation(trained=trained)
    with pytest.raises(ValueError, match="nothing is fetched"):
        evaluation(trained={**TRAINED, "data": {"shards": {"a": {"shards": "s3://bucket/x"}}}})
    assert evaluation("shards=https://host/x", trained=trained)["data"] == {
        "shards": "https://host/x",
        "seed": 3,
        "blind": False,
    }
