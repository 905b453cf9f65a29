"""VQA: training questions, prompts, accuracy, and ranking of a closed set of answers."""

import random
from dataclasses import replace

import pytest
import torch
from PIL import Image

from prefixvlm.batch import IGNORE_INDEX
from prefixvlm.data.sample import Question, Sample
from prefixvlm.data.tokenization import continuation_ids
from prefixvlm.model.constrained import score_answers
from prefixvlm.task import interface
from prefixvlm.task.rows import closed_set as choosing
from prefixvlm.task.vqa import Vqa
from tests.conftest import collator_of, tiny_model
from tests.model import naive

ANSWERS = ["yes", "no", "red", "a big blue circle"]


def sample_of(image, key="k7"):
    return Sample(key, image, (), (
        Question(f"{key}-0", "What colour is {it}?", ("red", "scarlet")),
        Question(f"{key}-1", "is there a square?", ("yes",)),
        Question(f"{key}-2", "does it have a circle in the middle?", ("no",)),
    ))  # fmt: skip


def prediction(question, text, truths, task):
    asked = Sample("k", Image.new("RGB", (8, 8)), (), (Question(question, question, truths),))
    (row,) = task.prompt_rows(asked)
    return task.make_prediction(row, text)


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
    values = {name: score.value for name, score in scores.items()}
    assert values == pytest.approx({"accuracy": 60, "accuracy_is": 200 / 3, "accuracy_what": 50})
    assert {name: len(score.items) for name, score in scores.items()} == {
        "accuracy": 5, "accuracy_is": 3, "accuracy_what": 2
    }  # fmt: skip


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
        model.mapper.linear.weight.mul_(20)  # so that the image has an effect
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
    monkeypatch.setattr(choosing, "MAX_ROWS", 8)
    assert task.predict(model, collate(rows, supervised=False)) == together
    assert max(read) == 8  # 2 rows of 4 answers


def test_the_decoding_options_describe_a_closed_set():
    assert Vqa(answers=ANSWERS, normalize_length=True).decoding == {
        "method": "ranking", "answers": 4, "normalize_length": True
    }  # fmt: skip


def test_ranked_answers_are_tokenized_as_they_were_trained(images):
    """The target ids in training and the ranked ids are the same."""
    model = tiny_model("gpt2")
    task = Vqa(answers=["red"])
    (row,) = task.training_rows(Sample("k", images[0], (), (Question("q", "what?", ("red",)),)), random.Random(0))
    target_ids = [label for label in collator_of(model).tokenize(row).labels if label != IGNORE_INDEX]
    assert target_ids[:-1] == continuation_ids(model.lm.tokenizer, " Answer:", " red")


def test_the_official_metric_counts_matches_among_ten_answers():
    task = Vqa(metric="vqa")
    assert task.variant == "vqa_official"
    answers = ("red", *["blue"] * 2, *["green"] * 7)
    found = {text: prediction("what?", text, answers, task).correct for text in ("red", "blue", "green", "pink")}
    # Each of the ten is left out in turn: one match counts in 9 of 10 subsets, a third each.
    assert found == pytest.approx({"red": 0.3, "blue": 0.6, "green": 1, "pink": 0})
    assert task.scores([prediction("what?", "red", answers, task)])["accuracy"].value == pytest.approx(30)


def test_an_unknown_metric_is_an_error_with_all_metrics():
    with pytest.raises(ValueError, match=r"'bleu'.*exact_match.*vizwiz"):
        Vqa(metric="bleu")


def test_groups_are_those_of_the_question_and_its_answerability(images):
    def groups_of(labels, groups):
        question = Question("q", "What is it?", ("cat",), groups=groups)
        (row,) = Vqa().prompt_rows(Sample("k", images[0], (), (question,), labels, {"domain": "near"}))
        return row.groups

    assert groups_of({}, {}) == ("what",)
    assert groups_of({}, {"answer_type": "yes/no", "kind": "a b"}) == ("answer_type_yes/no", "kind_a_b")
    assert groups_of({"answerable": "no", "shape": "round"}, {}) == ("answerable_no",)
    assert groups_of({"answerable": "yes"}, {"answer_type": "other"}) == ("answer_type_other", "answerable_yes")


def vizwiz_samples(images):
    return [
        Sample(f"k{i}", image, (), (Question(f"q{i}", "what is it?"[: 9 + i], ("unanswerable", "cat") * 5),),
               {"answerable": "no" if i in (1, 4) else "yes"})
        for i, image in enumerate(images)
    ]  # fmt: skip


def test_answerability_is_the_average_precision_of_unanswerable_questions(model, images):
    """Questions are ranked by the log-likelihood of "unanswerable"; the unanswerable ones are the positives."""
    naive.make_images_count(model)
    task = Vqa(metric="vizwiz", answerability=True, decoding={"max_new_tokens": 2})
    rows = [row for sample in vizwiz_samples(images) for row in task.prompt_rows(sample)]
    found = task.predict(model, collator_of(model)(rows, supervised=False))
    likely = [naive.likelihoods(model, row, ["unanswerable"])[0] for row in rows]
    assert [p.values[0] for p in found] == pytest.approx(likely, abs=1e-3)
    order = sorted(range(5), key=lambda i: -likely[i])
    places = [order.index(i) + 1 for i in (1, 4)]
    expected = 100 * sum(number / place for number, place in enumerate(sorted(places), 1)) / 2
    scores = task.scores(found)
    assert scores["answerability_ap"].value == pytest.approx(expected)
    assert len(scores["accuracy_answerable_no"].items) == 2
    plain = Vqa(decoding={"max_new_tokens": 2})
    assert "answerability_ap" not in plain.scores(plain.predict(model, collator_of(model)(rows, supervised=False)))


def test_answerability_belongs_to_its_question_in_shared_rows_and_slices(images, monkeypatch):
    model, task = naive.make_images_count(tiny_model("llama")), Vqa(answerability=True, decoding={"max_new_tokens": 2})
    rows = [row for sample in vizwiz_samples([images[0], images[1], images[0]]) for row in task.prompt_rows(sample)]
    rows += [replace(row, id=f"again-{row.id}") for row in rows]
    batch = collator_of(model)(rows, supervised=False)
    whole = {p.id: p.values[0] for p in task.predict(model, batch)}
    assert len(whole) == 6
    assert len(batch.rows) == 3
    assert all(whole[f"again-q{i}"] == whole[f"q{i}"] for i in range(3))
    monkeypatch.setattr(interface, "MAX_ROWS", 2)
    monkeypatch.setattr(choosing, "MAX_ROWS", 2)
    assert {p.id: p.values[0] for p in task.predict(model, batch)} == pytest.approx(whole, abs=1e-4)


def test_without_any_unanswerable_question_there_is_no_average_precision(images):
    task = Vqa(answerability=True)
    (row,) = task.prompt_rows(vizwiz_samples(images)[0])
    assert set(task.scores([task.make_prediction(row, "cat", [-1.0])])) == {"accuracy", "accuracy_answerable_yes"}


def test_questions_without_answers_need_a_submission(images):
    sample = Sample("k", images[0], (), (Question("q0", "what?", ("cat",)), Question("secret", "what is it?")))
    task = Vqa(decoding={"max_new_tokens": 2})
    with pytest.raises(ValueError, match=r"'secret'.*submission"):
        task.check_references(sample)
    model = tiny_model("gpt2")
    found = task.predict(model, collator_of(model)(task.prompt_rows(sample), supervised=False))
    assert [(p.id, p.correct is None) for p in found] == [("q0", False), ("secret", True)]
    report = task.report(found)
    assert (report["num_items"], report["num_unscored"], report["counts"]["accuracy"]) == (2, 1, 1)
    assert list(report["items"]["accuracy"]) == ["q0"]
    assert task.report(found[1:])["scores"] == {}
    with pytest.raises(ValueError, match=r"'secret'"):
        task.training_rows(sample, random.Random(0))
