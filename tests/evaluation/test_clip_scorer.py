"""ClipScorer with a small random CLIP, against the metrics on features that are computed here."""

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
    """Two references for one, one for the others."""
    texts = references if references is not None else (f"all {colour}", "a wall")[: 2 if colour == "red" else 1]
    return Prediction("captioning", colour, colour, "", f"a {colour} thing", texts, 0.0)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(module, "BATCH_SIZE", 2)


def test_captions_are_scored_as_the_metric_does(clip):
    said = [prediction(colour) for colour in COLOURS[::-1]]  # not in the order of the images
    found = ClipScorer(clip, samples).caption_scores(said)
    images = torch.cat([clip.image_features([image(p.key)]) for p in said])
    texts = torch.cat([clip.text_features([PREFIX + p.prediction]) for p in said])
    references = [clip.text_features([PREFIX + text for text in p.references]).numpy() for p in said]
    expected = clip_scores(images.numpy(), texts.numpy(), references)
    assert set(found) == {"clip_score", "ref_clip_score"}
    for name, score in found.items():
        assert score.value == pytest.approx(expected.scores[name], rel=1e-5)
        assert score.items == pytest.approx(expected.per_item[name], rel=1e-5)
        assert score.predictions == said
        assert score.interval[0] <= score.value <= score.interval[1]
    assert len(set(found["clip_score"].items)) == 5  # so that one cannot stand for another


def test_without_all_references_there_is_no_score_of_references(clip):
    found = ClipScorer(clip, samples).caption_scores([prediction("red"), prediction("blue", ())])
    assert set(found) == {"clip_score"}


def test_its_own_retrieval_is_of_the_same_images_and_captions(clip):
    said = [prediction(colour) for colour in COLOURS]
    found = ClipScorer(clip, samples).retrieval_scores(said)
    images = clip.image_features([image(p.key) for p in said])
    texts = clip.text_features([text for p in said for text in p.references])
    expected = retrieval_scores((images @ texts.T).numpy(), [0, 0, 1, 2, 3, 4])
    assert {name: score.value for name, score in found.items()} == {f"clip_{n}": v for n, v in expected.items()}


def test_the_images_are_looked_at_once_and_only_when_they_are_needed(clip):
    asked = []

    def watched():
        asked.append(1)
        return samples()

    scorer = ClipScorer(clip, watched)
    assert extra_scorers(["captioning"], scorer, blind=True, java=False) == {"captioning": [scorer.caption_scores]}
    assert extra_scorers(["retrieval"], scorer, blind=False, java=True) == {"retrieval": [scorer.retrieval_scores]}
    # Blind, CLIP would see images that the model does not.
    assert extra_scorers(["retrieval"], scorer, blind=True, java=True) == {"retrieval": []}
    assert not asked
    scorer.caption_scores([prediction("red")])
    scorer.retrieval_scores([prediction("blue")])
    assert len(asked) == 1


def test_it_warns_if_it_is_the_models_own_eye(clip, folder, tmp_path):
    scorer = ClipScorer(clip, samples)
    own = scorer.describe(OpenClipEncoder(f"local-dir:{folder}"))
    assert own["name"] == f"local-dir:{folder}"
    assert "flatters" in own["warning"]
    assert scorer.describe(OpenClipEncoder(f"local-dir:{tiny_clip(tmp_path / 'other', seed=1)}"))["warning"] is None
