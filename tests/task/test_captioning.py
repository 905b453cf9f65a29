"""Captioning: which captions train, what is asked, and how answers count."""

import math
import random

import pytest

from prefixvlm.data.sample import Sample
from prefixvlm.task.captioning import Captioning
from prefixvlm.task.interface import Prediction


@pytest.fixture
def sample(images):
    return Sample("k7", images[0], tuple(f"caption {letter}" for letter in "abcde"))


def predictions(*pairs):
    task = Captioning()
    return [Prediction("captioning", f"k{i}", f"k{i}", "", text, truths, task.correct(text, truths))
            for i, (text, truths) in enumerate(pairs)]  # fmt: skip


def test_training_captions_are_drawn_by_the_generator_alone(sample):
    task = Captioning(captions_per_image=2)

    def drawn(seed):
        return tuple(row.target for row in task.training_rows(sample, random.Random(seed)))

    random.seed(0)
    first = [drawn(seed) for seed in range(20)]
    random.seed(1)
    assert [drawn(seed) for seed in range(20)] == first
    assert all(len(set(targets)) == 2 for targets in first)
    assert {target for targets in first for target in targets} == set(sample.captions)


def test_there_are_no_more_training_rows_than_captions(sample):
    assert len(Captioning(captions_per_image=9).training_rows(sample, random.Random(0))) == 5


@pytest.mark.parametrize(("prompt", "target"), [("", "caption a"), ("Caption:", " caption a")])
def test_a_space_parts_the_prompt_from_the_caption(images, prompt, target):
    (row,) = Captioning(prompt).training_rows(Sample("k", images[0], ("caption a",)), random.Random(0))
    assert row.prompt == (images[0], prompt)
    assert row.target == target


def test_a_prompt_row_carries_all_references_and_no_target(sample):
    (row,) = Captioning("Caption:").prompt_rows(sample)
    assert (row.key, row.id, row.references, row.target) == ("k7", "k7", sample.captions, "")
    assert row.prompt == (sample.image, "Caption:")


@pytest.mark.parametrize(
    "rows_of", [lambda s: Captioning().training_rows(s, random.Random(0)), Captioning().prompt_rows]
)
def test_a_sample_without_captions_is_an_error_that_says_which(images, rows_of):
    with pytest.raises(ValueError, match=r"'k9'.*captioning"):
        rows_of(Sample("k9", images[0]))


def test_scores_are_percent_and_the_official_scale():
    scores = Captioning().scores(predictions(
        ("A red square.", ("a blue circle", "a red square")),
        ("a cat", ("a big dog",)),
        ("a big tree", ("a big tree",)),
        ("a", ("some water",)),
    ))  # fmt: skip
    assert scores["exact_match"] == 50
    assert set(scores) == {"exact_match", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"}
    # 3 + 1 + 3 of the predictions' 9 words are right, and the references have 11.
    assert scores["bleu_1"] == pytest.approx(7 / 9 * math.exp(1 - 11 / 9), rel=1e-6)
