"""ClipScorer with a small random CLIP, compared with the metrics on its features."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from prefixvlm.data.sample import Sample
from prefixvlm.encoder.clip import Clip
from prefixvlm.encoder.openclip import OpenClipEncoder
from prefixvlm.evaluation import clip_scorer as module
from prefixvlm.evaluation.clip_scorer import ClipScorer
from prefixvlm.evaluation.scorers import extra_scorers
from prefixvlm.metrics.captions.clip_score import PREFIX, clip_scores
from prefixvlm.metrics.retrieval import retrieval_scores
from prefixvlm.task.results.prediction import Prediction
from tests.test_end_to_end import tiny_clip

COLOURS = ["red", "green", "blue", "white", "black"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("scorer") / "clip")


@pytest.fixture(scope="module")
def clip(folder):
    return Clip(f"local-dir:{folder}")


def image(colour):
    picture = Image.new("RGB", (70, 50), colour)
    picture.paste((9, 99, 199), (0, 0, 20, 50))
    return picture


def samples():
    return iter([Sample(colour, image(colour), ("a",)) for colour in COLOURS])


def prediction(colour, references=None):
    """Return a prediction with two references for red and one for other colours."""
    texts = references if references is not None else (f"all {colour}", "a wall")[: 2 if colour == "red" else 1]
    return Prediction("captioning", colour, colour, "", f"a {colour} thing", texts, 0.0)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(module, "BATCH_SIZE", 2)


def test_captions_are_scored_like_the_metric(clip):
    predictions = [prediction(colour) for colour in COLOURS[::-1]]  # not in the order of the images
    scores = ClipScorer(clip, samples).caption_scores(predictions)
    images = torch.cat([clip.image_features([image(p.key)]) for p in predictions])
    texts = torch.cat([clip.text_features([PREFIX + p.prediction]) for p in predictions])
    references = [clip.text_features([PREFIX + text for text in p.references]).numpy() for p in predictions]
    expected = clip_scores(images.numpy(), texts.numpy(), references)
    assert set(scores) == {"clip_score", "ref_clip_score"}
    for name, score in scores.items():
        assert score.value == pytest.approx(expected.scores[name], rel=1e-5)
        assert score.items == pytest.approx(expected.per_item[name], rel=1e-5)
        assert score.predictions == predictions
        assert score.interval[0] <= score.value <= score.interval[1]
    assert len(set(scores["clip_score"].items)) == 5  # so that a wrong order would be seen


def test_there_is_no_ref_clip_score_unless_all_have_references(clip):
    scores = ClipScorer(clip, samples).caption_scores([prediction("red"), prediction("blue", ())])
    assert set(scores) == {"clip_score"}


def test_retrieval_by_clip_is_on_the_same_images_and_captions(clip):
    predictions = [prediction(colour) for colour in COLOURS]
    scores = ClipScorer(clip, samples).retrieval_scores(predictions)
    images = clip.image_features([image(p.key) for p in predictions])
    texts = clip.text_features([text for p in predictions for text in p.references])
    expected = retrieval_scores((images @ texts.T).numpy(), [0, 0, 1, 2, 3, 4])
    assert {name: score.value for name, score in scores.items()} == {f"clip_{n}": v for n, v in expected.items()}


def test_texts_are_encoded_once_for_all_baselines(clip, monkeypatch):
    scorer, predictions, encoded = ClipScorer(clip, samples), [prediction(colour) for colour in COLOURS], []
    encode = clip.text_features
    monkeypatch.setattr(clip, "text_features", lambda texts: encoded.extend(texts) or encode(texts))
    first = scorer.caption_scores(predictions)
    exchanged = [
        replace(p, prediction=other.prediction) for p, other in zip(predictions, predictions[::-1], strict=True)
    ]
    second = scorer.caption_scores(exchanged)
    assert len(encoded) == len(set(encoded)) == 5 + 6
    assert second["clip_score"].value == ClipScorer(clip, samples).caption_scores(exchanged)["clip_score"].value
    assert second["clip_score"].value != first["clip_score"].value


def test_images_are_encoded_once_and_only_if_needed(clip):
    asked = []

    def watched():
        asked.append(1)
        return samples()

    scorer = ClipScorer(clip, watched)
    assert extra_scorers(["captioning"], scorer, baseline=True, java=False) == {"captioning": [scorer.caption_scores]}
    assert extra_scorers(["retrieval"], scorer, baseline=False, java=True) == {"retrieval": [scorer.retrieval_scores]}
    # Blind, CLIP would see images that the model does not.
    assert extra_scorers(["retrieval"], scorer, baseline=True, java=True) == {"retrieval": []}
    assert not asked
    scorer.caption_scores([prediction("red")])
    scorer.retrieval_scores([prediction("blue")])
    assert len(asked) == 1


def test_it_warns_if_it_is_the_encoder_of_the_model(clip, folder, tmp_path):
    scorer = ClipScorer(clip, samples)
    own = scorer.describe(OpenClipEncoder(f"local-dir:{folder}"))
    assert own["name"] == f"local-dir:{folder}"
    assert "flatters" in own["warning"]
    assert scorer.describe(OpenClipEncoder(f"local-dir:{tiny_clip(tmp_path / 'other', seed=1)}"))["warning"] is None
