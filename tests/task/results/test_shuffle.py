"""The shuffled baseline: never the same image, the same text where possible, each output once."""

import random
from collections import Counter

import pytest

from prefixvlm.task.results.prediction import Prediction
from prefixvlm.task.results.shuffle import donors, shares


def prediction(key, number=0, prompt="", groups=()):
    return Prediction("vqa", key, f"{key}-{number}", prompt, f"said of {key}", ("x",), 0.0, groups)


def texts(predictions):
    return [p.prompt for p in predictions]


def test_every_caption_goes_to_another_image_and_the_seed_decides():
    captions = [prediction(f"k{n}") for n in range(50)]
    chosen = [donors(captions, texts(captions), seed) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    for places in chosen:
        assert sorted(places) == list(range(50))
        assert all(place != other for place, other in enumerate(places))


def test_answers_are_exchanged_among_equal_questions_of_other_images():
    rng = random.Random(0)
    asked = [
        prediction(f"k{n}", m, rng.choice("abcd")) for n in range(40) for m in range(5)
    ]  # some ask one thing twice
    chosen = donors(asked, texts(asked), 0)
    assert sorted(chosen) == list(range(200))
    assert all(asked[a].key != asked[b].key and asked[a].prompt == asked[b].prompt for a, b in enumerate(chosen))
    assert shares(asked, texts(asked), chosen) == {"same_text": 200, "same_kind": 0, "any": 0}


def test_a_question_without_its_like_gets_an_answer_to_one_of_its_kind_and_the_last_any():
    asked = [
        prediction("a", 0, "is it red?", ("yes/no",)), prediction("a", 1, "is it red? ", ("yes/no",)),
        prediction("b", 0, "is it round?", ("yes/no",)), prediction("b", 1, "is it new?", ("yes/no",)),
        prediction("c", 0, "how many?", ("number",)),
    ]  # fmt: skip
    for seed in range(20):
        chosen = donors(asked, texts(asked), seed)
        assert {*chosen[:2]} == {2, 3}
        assert {*chosen[2:4]} == {0, 1}
        assert chosen[4] != 4
        assert shares(asked, texts(asked), chosen) == {"same_text": 0, "same_kind": 4, "any": 1}


@pytest.mark.parametrize("most", [1, 2, 5])
def test_an_image_with_most_of_the_questions_leaves_none_to_itself(most):
    asked = [prediction("a", n) for n in range(most)] + [prediction("b"), prediction("c")]
    for seed in range(10):
        chosen = donors(asked, texts(asked), seed)
        assert all(asked[place].key != asked[other].key for place, other in enumerate(chosen))
    assert max(Counter(chosen).values()) <= max(1, most)


def test_one_image_has_no_other():
    assert donors([prediction("a", n) for n in range(3)], ["", "", ""], 0) == []
    assert donors([], [], 0) == []
