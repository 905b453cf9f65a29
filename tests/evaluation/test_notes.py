"""An evaluation scores the tasks that its shards have references for, and names the others."""

import json

import pytest

from prefixvlm.data.shards.write import write_shards
from prefixvlm.evaluation.evaluate import Evaluator
from prefixvlm.evaluation.notes import notes
from prefixvlm.metrics.captions.cider import OF_ONE_IMAGE
from prefixvlm.task.rows.few_shot import FewShot
from tests.data.conftest import png
from tests.training.test_module import data_of, module_of, trainer_of

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # of Lightning
CAPTION = {"captions": ["a cat"]}
QUESTION = {"questions": [{"id": "q", "question": "is it?", "answers": ["yes"]}]}


@pytest.mark.parametrize(
    ("content", "scored", "passed_over"),
    [
        (CAPTION, ["captioning"], "vqa"),
        (QUESTION, ["vqa"], "captioning"),
        (CAPTION | QUESTION, ["captioning", "vqa"], ""),
    ],
)
def test_a_task_without_references_is_passed_over_with_a_word(tmp_path, content, scored, passed_over):
    samples = [("a", {"png": png(40), "json": json.dumps(content).encode()})]
    write_shards({"test": iter(samples)}, tmp_path / "shards", "a test", "none")
    module = module_of()
    evaluator = Evaluator(
        module, trainer_of(), lambda **options: data_of(module, str(tmp_path / "shards"), **options), [FewShot()]
    )
    result, lines = evaluator.run(blind=False)
    assert list(result["tasks"]) == scored
    assert {line["task"] for line in lines} == set(scored)
    words = f"task {passed_over} is passed over: no sample has what it is scored by; shards= names others"
    assert (words in result["notes"]) is bool(passed_over)
    assert any(OF_ONE_IMAGE in note for note in result["notes"]) is ("captioning" in scored)


def test_cider_of_several_images_needs_no_note():
    report = {
        "scores": {"cider": 0.0, "cider_dogs": 0.0, "bleu_4": 0.0},
        "counts": {"cider": 2, "cider_dogs": 1, "bleu_4": 1},
    }
    assert notes([], {"captioning": report}) == [f"captioning cider_dogs: {OF_ONE_IMAGE}"]
