"""Retrieval by likelihood: the scores of all pairs of image and caption, and recall."""

import numpy as np
import pytest
from PIL import Image

from prefixvlm.data.sample import Sample
from prefixvlm.metrics.retrieval import retrieval_scores
from prefixvlm.task.retrieval import Retrieval
from prefixvlm.task.rows import closed_set as choosing
from tests.conftest import collator_of, tiny_model
from tests.model import naive


def samples_of(images, counts=(2, 1, 3, 2, 1)):
    return [
        Sample(f"k{i}", image, tuple(f"{'abcde'[i]} thing {n}"[: 3 + 4 * n] for n in range(count)))
        for i, (image, count) in enumerate(zip(images, counts, strict=True))
    ]


def predicted(model, task, samples):
    rows = [row for sample in samples for row in task.prompt_rows(sample)]
    return task.predict(model, collator_of(model)(rows, supervised=False))


def blank(samples):
    """Return the samples with black images, as prepare gets them."""
    black = Image.new("RGB", (8, 8))
    return lambda: (Sample(sample.key, black, sample.captions) for sample in samples)


@pytest.mark.parametrize("normalize_length", [False, True])
def test_values_are_the_log_likelihoods_of_all_captions_after_each_image(model, images, monkeypatch, normalize_length):
    naive.make_images_count(model)
    samples, task = samples_of(images), Retrieval("Caption:", normalize_length=normalize_length)
    task.prepare(blank(samples))
    captions = [text for sample in samples for text in sample.captions]
    found = predicted(model, task, samples)
    for sample, prediction in zip(samples, found, strict=True):
        (row,) = task.prompt_rows(sample)
        values = naive.likelihoods(model, row, captions, normalize_length)
        assert prediction.values == pytest.approx(values, abs=1e-3)
        assert prediction.prediction == captions[values.index(max(values))]
        assert prediction.correct == (prediction.prediction in sample.captions)
    monkeypatch.setattr(choosing, "MAX_ROWS", 4)
    for whole, part in zip(found, predicted(model, task, samples), strict=True):
        assert part.values == pytest.approx(whole.values, abs=1e-3)


def test_recall_does_not_depend_on_the_order_of_the_predictions(images):
    model, samples, task = naive.make_images_count(tiny_model("llama")), samples_of(images), Retrieval("Caption:")
    task.prepare(blank(samples))
    found = predicted(model, task, samples)
    expected = retrieval_scores(np.stack([p.values for p in found]), [0, 0, 1, 2, 2, 2, 3, 3, 4])
    for order in (found, found[::-1], [found[i] for i in (2, 0, 4, 1, 3)]):
        scores = task.scores(order)
        assert {name: score.value for name, score in scores.items()} == pytest.approx(expected)
    assert task.main_score in expected
    assert 0 < expected["text_to_image_recall_1"] < 100
    assert expected["image_to_text_recall_1"] == pytest.approx(100 * sum(p.correct for p in found) / 5)
    report = task.report(found)
    assert set(report["intervals"]) == set(expected)
    assert report["items"][task.main_score] == {p.id: 100 * p.correct for p in found}


@pytest.mark.parametrize(("captions_in_set", "owners"), [(1, [0, 1, 2, 3, 4]), (2, [0, 0, 1, 2, 2, 3, 3, 4])])
def test_captions_in_set_limits_the_candidates_of_an_image(images, captions_in_set, owners):
    model, samples = tiny_model("gpt2"), samples_of(images)
    whole, task = Retrieval(), Retrieval(captions_in_set=captions_in_set)
    for each in (whole, task):
        each.prepare(blank(samples))
    all_found, found = predicted(model, whole, samples), predicted(model, task, samples)
    kept = [
        place
        for place, (sample, number) in enumerate((s, n) for s in samples for n in range(len(s.captions)))
        if number < captions_in_set
    ]
    for all_of, some in zip(all_found, found, strict=True):
        assert some.values == pytest.approx(all_of.values[kept], abs=1e-3)
        assert some.references == all_of.references  # any of the image's captions is right, a candidate or not
    expected = retrieval_scores(np.stack([p.values for p in found]), owners)
    assert {name: score.value for name, score in task.scores(found).items()} == pytest.approx(expected)


def test_with_black_images_all_values_are_equal_and_recall_is_at_chance(images):
    model, black = tiny_model("gpt2"), Image.new("RGB", (8, 8))
    samples, task = samples_of([black] * 5, (1, 1, 1, 1, 1)), Retrieval()
    task.prepare(blank(samples))
    rows = [row for sample in samples for row in task.prompt_rows(sample)]
    batch = collator_of(model)(rows, supervised=False)
    assert len(batch.rows) == 1
    found = task.predict(model, batch)
    assert [p.key for p in found] == [sample.key for sample in samples]
    scores = {name: score.value for name, score in task.scores(found).items()}
    assert scores["image_to_text_recall_1"] == 20
    assert scores["text_to_image_recall_1"] == 0  # ties count as errors
    assert scores["image_to_text_recall_5"] == 100
    assert task._first(rows[0], np.zeros(5)) == 0


def test_prepare_is_needed_and_replaces_the_candidates(images):
    model, samples, task = tiny_model("gpt2"), samples_of(images), Retrieval()
    with pytest.raises(AssertionError, match="prepare is called before"):
        predicted(model, task, samples)
    task.prepare(blank(samples))
    task.prepare(blank(samples[:2]))
    assert [len(p.values) for p in predicted(model, task, samples[:2])] == [3, 3]


def test_a_set_without_captions_is_an_error(images):
    with pytest.raises(ValueError, match="no sample has a caption"):
        Retrieval().prepare(blank([Sample("k", images[0])]))


@pytest.mark.parametrize("captions_in_set", [0, -1])
def test_less_than_one_caption_of_an_image_is_an_error(captions_in_set):
    with pytest.raises(ValueError, match=rf"task\.retrieval\.captions_in_set is {captions_in_set}"):
        Retrieval(captions_in_set=captions_in_set)
