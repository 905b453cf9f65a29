"""Captioning: training captions, prompts, and scores."""

import math
import random
from dataclasses import replace

import pytest

from prefixvlm.data.sample import Sample
from prefixvlm.task.captioning import Captioning
from prefixvlm.task.results.prediction import Prediction
from tests.conftest import collator_of, tiny_model


@pytest.fixture
def sample(images):
    return Sample("k7", images[0], tuple(f"caption {letter}" for letter in "abcde"))


def predictions(*pairs, groups=()):
    task = Captioning()
    return [Prediction("captioning", f"k{i}", f"k{i}", "", text, truths, task.correct(text, truths), groups)
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
def test_a_space_separates_the_prompt_from_the_caption(images, prompt, target):
    (row,) = Captioning(prompt).training_rows(Sample("k", images[0], ("caption a",)), random.Random(0))
    assert row.prompt == (images[0], prompt)
    assert row.target == target


def test_a_prompt_row_carries_all_references_and_no_target(sample):
    (row,) = Captioning("Caption:").prompt_rows(sample)
    assert (row.key, row.id, row.references, row.target) == ("k7", "k7", sample.captions, "")
    assert row.prompt == (sample.image, "Caption:")


@pytest.mark.parametrize(
    "rows_of", [lambda s: Captioning().training_rows(s, random.Random(0)), Captioning().check_references]
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
    assert scores["exact_match"].value == 50
    assert scores["exact_match"].items == [100, 0, 100, 0]
    assert set(scores) >= {"exact_match", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"}
    # 3 + 1 + 3 of the predictions' 9 words are right, and the references have 11.
    assert scores["bleu_1"].value == pytest.approx(7 / 9 * math.exp(1 - 11 / 9), rel=1e-6)


NEAR = (("a red square", ("a red square", "a square")), ("a blue circle", ("the blue circle",)), ("a", ("a cat",)))
FAR = (("a green tree", ("a green tree",)), ("two big dogs", ("two dogs", "big dogs")), ("a circle", ("a red ball",)))


def test_the_cider_of_a_group_depends_on_its_own_images_alone():
    """The document frequencies are those of the group, so it is not the mean over its images in the whole set."""
    near, far = predictions(*NEAR, groups=("domain_near",)), predictions(*FAR, groups=("domain_far",))
    far = [replace(p, key=f"far-{p.key}", id=f"far-{p.id}") for p in far]
    scores = Captioning().scores([*near, *far])
    for name, group, among in (("cider_domain_near", near, slice(3)), ("cider_domain_far", far, slice(3, 6))):
        alone = Captioning().scores([replace(p, groups=()) for p in group])["cider"]
        assert scores[name].value == pytest.approx(alone.value) != pytest.approx(sum(scores["cider"].items[among]) / 3)
        assert (scores[name].predictions, scores[name].items) == (group, alone.items)
    assert set(Captioning().scores(near)) - set(Captioning().scores(far)) == {"cider_domain_near"}


def test_scores_of_items_have_intervals_and_are_in_the_report_by_id():
    near = predictions(*NEAR, groups=("domain_near",))
    far = [replace(p, key=f"far-{p.key}", id=f"far-{p.id}") for p in predictions(*FAR, groups=("domain_far",))]
    report = Captioning().report([*near, *far])
    items, scores = report["items"], report["scores"]
    for name in ("exact_match", "rouge_l", "cider"):
        assert list(items[name]) == [p.id for p in [*near, *far]]
        values = list(items[name].values())
        assert sum(values) / len(values) == pytest.approx(scores[name])
        low, high = report["intervals"][name]
        assert min(values) <= low < scores[name] < high <= max(values)
    assert "cider_domain_near" in report["intervals"]
    assert list(items["cider_domain_near"]) == [p.id for p in near]  # by the document frequencies of the group
    assert "vocabulary" not in report["intervals"]  # a resample always has fewer words
    counts = {"cider": 6, "exact_match": 6, "cider_domain_near": 3, "cider_domain_far": 3}
    assert {name: report["counts"][name] for name in counts} == counts


def test_captions_without_references_are_predicted_but_not_scored(images):
    model, task = tiny_model("gpt2"), Captioning(decoding={"max_new_tokens": 3})
    samples = [Sample("secret", images[0], groups={"domain": "near"}), Sample("known", images[1], ("a cat",))]
    batch = collator_of(model)([row for sample in samples for row in task.prompt_rows(sample)], supervised=False)
    secret, known = task.predict(model, batch)
    assert (secret.correct, secret.references, secret.groups) == (None, (), ("domain_near",))
    assert known.correct is not None
    report = task.report([secret, known])
    assert (report["num_items"], report["num_unscored"], report["counts"]["cider"]) == (2, 1, 1)
    nothing = task.report([secret])
    assert (nothing["num_unscored"], nothing["scores"], nothing["intervals"], nothing["items"]) == (1, {}, {}, {})


@pytest.mark.parametrize(
    ("truths", "first", "item_score"),
    [
        ([("a red circle",), ("A red circle.",), ("a blue square",)], "exact_match", None),  # two of three share one
        ([("a red circle",), ("a blue circle",), ("a blue square",)], "cider", "cider"),  # one reference each, but open
        ([("a dog runs", "a dog"), ("a cat sits", "a dog"), ("b", "c"), ("d", "e"), ("f", "g")], "cider", "cider"),
    ],
)
def test_exact_match_leads_for_a_closed_set_of_captions_and_cider_for_others(truths, first, item_score):
    given = predictions(*(("a red circle", each) for each in truths))
    report = Captioning().report(given)
    assert next(iter(report["scores"])) == first
    assert sorted(report["scores"]) == sorted(Captioning().report(predictions(("x", ("y",))))["scores"])
    assert report["item_score"] == item_score
    assert report["items"]["cider"].keys() == {p.id for p in given}
