"""Question answering: which questions train, what is asked, accuracy, and ranking over closed answers."""

import random

import pytest
import torch

from prefixvlm.data.collate import continuation_ids
from prefixvlm.data.sample import Question, Sample
from prefixvlm.model.decoding import score_answers
from prefixvlm.task import vqa
from prefixvlm.task.interface import Prediction
from prefixvlm.task.vqa import Vqa
from tests.conftest import collator_of, tiny_model

ANSWERS = ["yes", "no", "red", "a big blue circle"]


def sample_of(image, key="k7"):
    return Sample(key, image, (), (
        Question(f"{key}-0", "What colour is {it}?", ("red", "scarlet")),
        Question(f"{key}-1", "is there a square?", ("yes",)),
        Question(f"{key}-2", "does it have a circle in the middle?", ("no",)),
    ))  # fmt: skip


def prediction(question, text, truths, task):
    prompt = task.prompt.replace("{question}", question)
    return Prediction("vqa", "k", question, prompt, text, truths, task.correct(text, truths))


def test_training_questions_are_drawn_by_the_generator_alone(images):
    task, sample = Vqa(questions_per_image=2), sample_of(images[0])

    def drawn(seed):
        return tuple((row.id, row.target) for row in task.training_rows(sample, random.Random(seed)))

    random.seed(0)
    first = [drawn(seed) for seed in range(30)]
    random.seed(1)
    assert [drawn(seed) for seed in range(30)] == first
    assert all(len({id for id, _ in rows}) == 2 for rows in first)
    assert {row for rows in first for row in rows} == {
        ("k7-0", " red"), ("k7-0", " scarlet"), ("k7-1", " yes"), ("k7-2", " no")
    }  # fmt: skip
    assert len(Vqa(questions_per_image=9).training_rows(sample, random.Random(0))) == 3


def test_a_prompt_row_is_one_question_with_its_answers(images):
    rows = Vqa("Q: {question} A:").prompt_rows(sample_of(images[0]))
    assert [(row.key, row.id, row.references, row.target) for row in rows] == [
        ("k7", "k7-0", ("red", "scarlet"), ""), ("k7", "k7-1", ("yes",), ""), ("k7", "k7-2", ("no",), "")
    ]  # fmt: skip
    assert rows[0].prompt == (images[0], "Q: What colour is {it}? A:")


@pytest.mark.parametrize("rows_of", [lambda s: Vqa().training_rows(s, random.Random(0)), Vqa().prompt_rows])
def test_a_sample_without_questions_is_an_error_that_says_which(images, rows_of):
    with pytest.raises(ValueError, match=r"'k9'.*vqa"):
        rows_of(Sample("k9", images[0], ("a caption",)))


def test_a_prompt_without_the_question_is_an_error():
    with pytest.raises(ValueError, match=r"task\.vqa\.prompt is 'Q: question'.*\{question\}"):
        Vqa("Q: question")


@pytest.mark.parametrize("prompt", ["Question: {question} Answer:", "{question}", "Is it so? {question} Say:"])
def test_accuracy_is_percent_over_all_and_by_first_word(prompt):
    task = Vqa(prompt)
    scores = task.scores([
        prediction("What colour?", "Red.", ("scarlet", "red"), task),
        prediction("what shape?", "a circle", ("square",), task),
        prediction("Is it red?", "yes", ("yes",), task),
        prediction("is it blue?", "yes", ("no",), task),
        prediction("is it big?", "two", ("2",), task),
    ])  # fmt: skip
    assert scores == pytest.approx({"accuracy": 60, "accuracy_is": 200 / 3, "accuracy_what": 50})


@pytest.mark.parametrize("normalize_length", [False, True])
def test_ranking_is_the_argmax_of_score_answers(model, images, normalize_length):
    task = Vqa(answers=ANSWERS, normalize_length=normalize_length)
    rows = [row for i, image in enumerate(images) for row in task.prompt_rows(sample_of(image, f"k{i}"))]
    batch = collator_of(model)(rows, supervised=False)
    ids = [model.lm.tokenizer(" " + answer, add_special_tokens=False).input_ids for answer in ANSWERS]
    best = score_answers(model, batch, ids, normalize_length).argmax(1).tolist()
    assert [p.prediction for p in task.predict(model, batch)] == [ANSWERS[i] for i in best]


def test_ranking_is_the_same_for_each_row_alone_and_in_slices(images, monkeypatch):
    model = tiny_model("llama")
    with torch.no_grad():
        model.mapper.linear.weight.mul_(20)  # or the image would hardly count
    task = Vqa(answers=ANSWERS, normalize_length=True)
    rows = [row for i, image in enumerate(images) for row in task.prompt_rows(sample_of(image, f"k{i}"))]
    collate = collator_of(model)
    together = task.predict(model, collate(rows, supervised=False))
    alone = [p for row in rows for p in task.predict(model, collate([row], supervised=False))]
    assert together == alone
    assert len({p.prediction for p in together}) > 1
    read = []
    base = model.lm.model.base_model
    base.register_forward_pre_hook(lambda _, args, kw: read.append(len(kw["inputs_embeds"])), with_kwargs=True)
    monkeypatch.setattr(vqa, "MAX_ROWS", 8)
    assert task.predict(model, collate(rows, supervised=False)) == together
    assert max(read) == 8  # 2 rows of 4 answers


def test_a_closed_list_tells_how_it_answered():
    assert Vqa(answers=ANSWERS, normalize_length=True).decoding == {
        "method": "ranking", "answers": 4, "normalize_length": True
    }  # fmt: skip


def test_ranked_answers_are_tokenized_as_they_were_trained(images):
    """What follows the prompt in training and what is ranked after it are the same ids."""
    model = tiny_model("gpt2")
    task = Vqa(answers=["red"])
    (row,) = task.training_rows(Sample("k", images[0], (), (Question("q", "what?", ("red",)),)), random.Random(0))
    _, target_ids = collator_of(model).tokenize(row)
    assert target_ids[:-1] == continuation_ids(model.lm.tokenizer, " Answer:", " red")
