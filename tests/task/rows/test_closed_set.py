"""Closed answers: likelihoods in chunks, lists from a file or from each question, ranking and tries."""

import pytest
import torch

from prefixvlm.data.sample import Question, Sample
from prefixvlm.task.rows import closed_set as choosing
from prefixvlm.task.rows.closed_set import ClosedSetAnswers, likelihoods
from prefixvlm.task.vqa import Vqa
from tests.conftest import collator_of, tiny_model
from tests.model import naive

ANSWERS = ["yes", "no", "red", "a big blue circle", "r"]
CHOICES = [("cat", "dog"), ("red", "blue", "red circle"), (), ("two", "three", "four"), ("dog", "cat")]


def samples_of(images, choices):
    return [
        Sample(f"k{i}", image, (), (Question(f"q{i}", "what? " * (i + 1), ("cat",), choices[i]),))
        for i, image in enumerate(images)
    ]


def rows_of(images, task, choices=CHOICES):
    return [row for sample in samples_of(images, choices) for row in task.prompt_rows(sample)]


@pytest.mark.parametrize("normalize_length", [False, True])
def test_likelihoods_in_chunks_equal_one_call_and_a_naive_loop(model, images, monkeypatch, normalize_length):
    naive.make_images_count(model)
    task = Vqa()
    rows = rows_of(images, task)
    batch = collator_of(model)(rows, supervised=False)
    whole = likelihoods(model, batch, ANSWERS, task.end, normalize_length)
    assert whole.shape == (5, 5)
    for row, values in zip(rows, whole.tolist(), strict=True):
        assert values == pytest.approx(naive.likelihoods(model, row, ANSWERS, normalize_length), abs=1e-3)
    read = []
    base = model.lm.model.base_model
    base.register_forward_pre_hook(lambda _, args, kw: read.append(len(kw["inputs_embeds"])), with_kwargs=True)
    for most in (1, 2, 4, 5, 7, 11):
        monkeypatch.setattr(choosing, "MAX_ROWS", most)
        read.clear()
        torch.testing.assert_close(
            likelihoods(model, batch, ANSWERS, task.end, normalize_length), whole, atol=1e-3, rtol=0
        )
        assert max(read) <= most


@pytest.mark.parametrize("choose", ["ranking", "trie"])
def test_each_question_is_answered_from_its_own_choices(model, images, choose):
    naive.make_images_count(model)
    choices = [each or ("here", "there") for each in CHOICES]
    task = Vqa(answers="choices", choose=choose)
    rows, collate = rows_of(images, task, choices), collator_of(model)
    found = [p.prediction for p in task.predict(model, collate(rows, supervised=False))]
    for row, said, names in zip(rows, found, choices, strict=True):
        ids = [model.lm.tokenizer(" " + name).input_ids for name in names]
        if choose == "ranking":
            expected = names[max(range(len(names)), key=naive.likelihoods(model, row, names).__getitem__)]
        else:
            expected = names[ids.index(naive.constrained_greedy(model, row, ids))]
        assert said == expected
    assert found == [p.prediction for row in rows for p in task.predict(model, collate([row], supervised=False))]
    assert task.decoding["answers"] == "choices"


def test_one_question_with_other_choices_is_another_row(images):
    """Also where the image and the words are the same, as in a blind evaluation."""
    model, task = tiny_model("gpt2"), Vqa(answers="choices")
    questions = tuple(Question(f"q{i}", "what?", ("a",), choices) for i, choices in enumerate((("a",), ("b",), ("a",))))
    rows = task.prompt_rows(Sample("k", images[0], (), questions))
    batch = collator_of(model)(rows, supervised=False)
    assert len(batch.rows) == 2
    assert {p.id: p.prediction for p in task.predict(model, batch)} == {"q0": "a", "q1": "b", "q2": "a"}


@pytest.mark.parametrize("choose", ["ranking", "trie"])
def test_a_text_file_of_answers_is_the_list_of_its_lines(images, tmp_path, choose):
    path = tmp_path / "answers.txt"
    path.write_text("yes\n\n no \nrouge foncé\n", encoding="utf-8")
    model = naive.make_images_count(tiny_model("gpt2"))
    of_file, of_list = (Vqa(answers=a, choose=choose) for a in (str(path), ["yes", "no", "rouge foncé"]))
    assert of_file.decoding == of_list.decoding
    assert of_file.decoding["answers"] == 3
    batch = collator_of(model)(rows_of(images, of_file), supervised=False)
    assert of_file.predict(model, batch) == of_list.predict(model, batch)


def test_the_likeliest_whole_answer_is_not_the_one_that_begins_likeliest(model, images):
    """Where the two ways agree everywhere, one of them is not what it says."""
    naive.make_images_count(model)
    answers = [f"{letter}{rest}" for letter in "abcdefgh" for rest in ("", "x", "yz", " and more")]
    rows = rows_of(images, Vqa())
    batch = collator_of(model)(rows, supervised=False)
    ranked, held, mean = (
        [p.prediction for p in Vqa(answers=answers, **kw).predict(model, batch)]
        for kw in ({"choose": "ranking"}, {"choose": "trie"}, {"normalize_length": True})
    )
    assert ranked != held
    assert ranked != mean


def test_how_it_was_answered_is_told():
    assert Vqa(answers=ANSWERS, choose="trie").decoding == {"method": "trie", "answers": 5}
    assert Vqa(answers="choices").decoding == {"method": "ranking", "answers": "choices", "normalize_length": False}


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"answers": ["a"], "choose": "best"}, r"task\.vqa\.choose is 'best'; accepted are ranking, trie"),
        ({"answers": []}, r"task\.vqa\.answers is empty"),
        ({"answers": ["a", "b", "a"]}, r"task\.vqa\.answers .*repeated"),
        ({"answers": [True, False]}, r"task\.vqa\.answers has True.*quotes"),  # yes and no, as YAML reads them
        ({"answers": "no/such/file.txt"}, r"task\.vqa\.answers is 'no/such/file.txt'"),
    ],
)
def test_wrong_answers_are_an_error_that_names_the_key(keywords, message):
    with pytest.raises(ValueError, match=message) as caught:
        Vqa(**keywords)
    assert "\n" not in str(caught.value)


def test_a_file_without_lines_or_that_is_no_text_is_an_error_that_names_the_key(tmp_path):
    for name, content in (("empty.txt", b"\n \n"), ("image.png", b"\x89PNG\xff\xfe")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"task\.vqa\.answers"):
            Vqa(answers=str(tmp_path / name))


def test_a_question_without_choices_is_an_error_that_names_it_and_the_key(images):
    model, task = tiny_model("gpt2"), Vqa(answers="choices")
    batch = collator_of(model)(rows_of(images, task), supervised=False)
    with pytest.raises(ValueError, match=r"'q2' has no choices.*task\.vqa\.answers"):
        task.predict(model, batch)


def test_a_key_of_another_task_is_named():
    with pytest.raises(ValueError, match=r"task\.other\.choose"):
        ClosedSetAnswers(["a"], "best", False, "", "task.other")
