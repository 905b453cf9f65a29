"""Classification: log-likelihoods of the classes over an ensemble of prompts, and scores."""

import random

import pytest
from PIL import Image

from prefixvlm.data.sample import Sample
from prefixvlm.task.classification import Classification
from prefixvlm.task.rows import closed_set as choosing
from tests.conftest import collator_of, tiny_model
from tests.model import naive

CLASSES = ["circle", "red square", "cat", "dog", "hen", "owl", "fox"]
PROMPTS = ["This is a", "A photo of a", "a"]


def samples_of(images, labels=CLASSES):
    return [
        Sample(f"k{i}", image, labels={"kind": label} if label else {"other": "x"}, groups={"part": "ab"[i % 2]})
        for i, (image, label) in enumerate(zip(images, labels, strict=False))
    ]  # fmt: skip


def predicted(model, task, samples):
    rows = [row for sample in samples for row in task.prompt_rows(sample)]
    return task.predict(model, collator_of(model)(rows, supervised=False))


@pytest.mark.parametrize("normalize_length", [False, True])
def test_a_class_has_its_mean_log_likelihood_over_the_prompts(model, images, monkeypatch, normalize_length):
    naive.make_images_count(model)
    task = Classification(CLASSES, "kind", PROMPTS, normalize_length)
    found = predicted(model, task, samples_of(images))
    assert [p.id for p in found] == [f"k{i}" for i in range(5)]
    for sample, prediction in zip(samples_of(images), found, strict=True):
        each = [naive.likelihoods(model, row, CLASSES, normalize_length) for row in task.prompt_rows(sample)]
        means = [sum(values) / 3 for values in zip(*each, strict=True)]
        assert prediction.values == pytest.approx(means, abs=1e-3)
        assert prediction.prediction == CLASSES[means.index(max(means))]
        assert prediction.correct == (prediction.prediction in prediction.references)
    monkeypatch.setattr(choosing, "MAX_ROWS", 4)
    for whole, part in zip(found, predicted(model, task, samples_of(images)), strict=True):
        assert part.values == pytest.approx(whole.values, abs=1e-3)


def test_unlabelled_samples_are_predicted_and_not_scored(images):
    model, task = tiny_model("gpt2"), Classification(["circle", "cat"], "kind")
    samples = samples_of(images, ["circle", "", "cat", "", ""])
    found = predicted(model, task, samples)
    assert [p.references for p in found] == [("circle",), (), ("cat",), (), ()]
    assert [p.correct is None for p in found] == [False, True, False, True, True]
    assert all(p.prediction in task.classes for p in found)
    report = task.report(found)
    assert (report["num_items"], report["num_unscored"], report["counts"]["accuracy"]) == (5, 3, 2)
    assert task.report(found[1:2])["scores"] == {}
    assert [len(task.training_rows(sample, random.Random(0))) for sample in samples] == [1, 0, 1, 0, 0]


@pytest.mark.parametrize("rows_of", ["training_rows", "prompt_rows"])
def test_a_class_that_is_not_listed_is_an_error_that_names_it(images, rows_of):
    task = Classification(["circle", "cat"], "kind")
    arguments = (random.Random(0),) if rows_of == "training_rows" else ()
    with pytest.raises(ValueError, match=r"'k0' is of class 'dog'.*task\.classification\.classes"):
        getattr(task, rows_of)(samples_of(images, ["dog"])[0], *arguments)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"classes": ["a"]}, r"task\.classification\.classes is \['a'\]"),
        ({"classes": ["a", "b", "a"]}, r"task\.classification\.classes .*each once"),
        ({"classes": [True, False]}, r"task\.classification\.classes has True.*quotes"),
        ({"classes": ["a", "b"], "prompts": []}, r"task\.classification\.prompts is empty"),
    ],
)
def test_wrong_options_are_an_error_that_names_the_key(keywords, message):
    with pytest.raises(ValueError, match=message):
        Classification(**keywords)


def test_training_rows_are_any_of_the_prompts_and_the_name(images):
    task, (sample,) = Classification(CLASSES, "kind", PROMPTS), samples_of(images[:1], ["red square"])
    rows = [row for seed in range(30) for row in task.training_rows(sample, random.Random(seed))]
    assert all(row.prompt[0] is images[0] for row in rows)
    assert {row.prompt[1] for row in rows} == set(PROMPTS)
    assert {row.target for row in rows} == {" red square"}


def make_prediction(task, values, truths):
    """Make predictions from these likelihoods."""
    samples = samples_of([Image.new("RGB", (8, 8))] * len(truths), truths)
    return [
        task.make_prediction(task.prompt_rows(sample)[0], task.classes[row.index(max(row))], row)
        for sample, row in zip(samples, values, strict=True)
    ]


def test_with_two_classes_the_area_is_the_share_of_pairs_in_order():
    """Items are ordered by the difference of the log-likelihoods of both classes, not by one of them."""
    rng = random.Random(0)
    truths = ["cat" if rng.random() < 0.4 else "dog" for _ in range(40)]
    values = [[shift := rng.gauss(-50, 20), shift + rng.choice([-1, 0, 1, 2]) + (t == "dog")] for t in truths]
    task = Classification(["cat", "dog"], "kind")
    gaps = [(t == "dog", b - a) for t, (a, b) in zip(truths, values, strict=True)]
    pairs = [(x > y) + 0.5 * (x == y) for dog, x in gaps if dog for cat, y in gaps if not cat]
    scores = task.scores(make_prediction(task, values, truths))
    assert scores["roc_auc"].value == pytest.approx(100 * sum(pairs) / len(pairs), abs=1e-3)
    assert 50 < scores["roc_auc"].value < 100
    assert "roc_auc" not in task.scores(make_prediction(task, values[:1], truths[:1]))
    assert "accuracy_top_5" not in scores


def test_with_more_than_five_classes_the_top_five_count_in_percent():
    rng = random.Random(0)
    truths = [rng.choice(CLASSES) for _ in range(30)]
    values = [[rng.gauss(0, 1) for _ in CLASSES] for _ in truths]
    right = [truth in sorted(CLASSES, key=lambda c: -row[CLASSES.index(c)])[:5]
             for truth, row in zip(truths, values, strict=True)]  # fmt: skip
    scores = Classification(CLASSES, "kind").scores(make_prediction(Classification(CLASSES, "kind"), values, truths))
    assert scores["accuracy_top_5"].value == pytest.approx(100 * sum(right) / 30)
    assert 0 < sum(right) < 30
    assert scores["accuracy"].value < scores["accuracy_top_5"].value


def test_scores_are_percent_over_all_by_group_and_averaged_over_classes():
    task = Classification(["a", "b", "c"], "kind")
    guesses, truths = "aabbc", "abbbb"
    values = [[float(name == guess) for name in "abc"] for guess in guesses]
    scores = {name: score.value for name, score in task.scores(make_prediction(task, values, list(truths))).items()}
    assert scores["accuracy"] == scores["micro_f1"] == pytest.approx(60)
    assert scores["accuracy_part_a"] == pytest.approx(200 / 3)
    assert scores["accuracy_part_b"] == pytest.approx(50)
    assert scores["macro_recall"] == pytest.approx(100 * (1 + 2 / 4 + 0) / 3)
    assert scores["weighted_precision"] == pytest.approx(100 * (1 * 1 / 2 + 4 * 1) / 5)


def test_equal_prompts_of_black_images_are_one_row_with_a_prediction_each():
    model, black = tiny_model("opt"), Image.new("RGB", (8, 8))
    task = Classification(CLASSES, "kind", PROMPTS)
    samples = samples_of([black] * 7)
    rows = [row for sample in samples for row in task.prompt_rows(sample)]
    batch = collator_of(model)(rows, supervised=False)
    assert len(batch.rows) == 3  # one a prompt
    found = task.predict(model, batch)
    assert [p.key for p in found] == [sample.key for sample in samples]
    assert len({tuple(p.values) for p in found}) == len({p.prediction for p in found}) == 1
    assert sum(p.correct for p in found) == 1
    (alone,) = predicted(model, task, samples[:1])
    assert alone.values == pytest.approx(found[0].values, abs=1e-4)


def test_the_report_describes_the_method():
    task = Classification(CLASSES, "kind", PROMPTS, True)
    assert task.decoding == {"method": "ranking", "classes": 7, "prompts": 3, "normalize_length": True}
    assert task.prompt == "This is a | A photo of a | a"
