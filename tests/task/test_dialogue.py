"""Dialogue: context and supervision of turns, and a description as the first turn."""

import random

import pytest
from PIL import Image

from prefixvlm.batch import IGNORE_INDEX, AssistantTurn
from prefixvlm.data.sample import Question, Sample
from prefixvlm.task.dialogue import Dialogue
from tests.conftest import collator_of, tiny_model

QUESTIONS = tuple(Question(f"k-{n}", f"{text}?", (answer,)) for n, (text, answer) in
                  enumerate([("what", "a dog"), ("where", "at home"), ("why", "so")]))  # fmt: skip
SAMPLE = Sample("k", Image.new("RGB", (8, 8)), captions=("a dog at home",), questions=QUESTIONS)


def test_each_question_comes_after_the_true_turns_before_it():
    rows = Dialogue("{question}", turns=2).prompt_rows(SAMPLE)
    assert [row.id for row in rows] == ["k-0", "k-1", "k-2"]
    assert rows[0].prompt[1:] == ("what?",)
    assert [part for part in rows[2].parts if isinstance(part, str)] == ["where?", " at home", "\n", "why?"]
    assert sum(not isinstance(part, str) for part in rows[2].parts) == 1
    assert rows[2].references == ("so",)


def test_every_answer_is_supervised_with_its_end():
    model = tiny_model("gpt2")
    (row,) = Dialogue("{question}", turns=3).training_rows(SAMPLE, random.Random(0))
    batch = collator_of(model)([row])
    ids = [i for i in batch.labels[0].tolist() if i != IGNORE_INDEX]
    eos = model.lm.tokenizer.eos_token
    assert model.lm.tokenizer.decode(ids) == f" a dog{eos} at home{eos} so{eos}"
    assert sum(isinstance(part, AssistantTurn) for part in row.context) == 2


def test_a_description_is_the_first_turn():
    task = Dialogue("{question}", turns=2, description="Describe it.")
    rows = task.prompt_rows(SAMPLE)
    assert [row.id for row in rows] == ["k-description", "k-0", "k-1", "k-2"]
    assert rows[0].references == SAMPLE.captions
    assert rows[0].groups == ("describe",)
    assert rows[1].text == "what?"
    alone = task.prompt_rows(Sample("k", SAMPLE.image, captions=("a dog",)))
    assert [row.references for row in alone] == [("a dog",)]
    with pytest.raises(ValueError, match="'k' has no question"):
        task.prompt_rows(Sample("k", SAMPLE.image))
    assert next(row.id for row in Dialogue("{question}").prompt_rows(SAMPLE)) == "k-0"


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="turns is 0"):
        Dialogue(turns=0)
