"""Features of captioned training images: computed once, and read from the cache folder by the next process."""

import io
import json

import pytest
import torch
from PIL import Image

from prefixvlm.data.image import decode_image
from prefixvlm.data.shards.write import write_shards
from prefixvlm.encoder.mean_features import mean_of
from prefixvlm.features import captioned
from prefixvlm.features.captioned import captioned_features
from tests.conftest import MeanEncoder

COLOURS = {"red": (255, 0, 0), "grey": (90, 90, 90), "green": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.fixture
def paths(tmp_path):
    def raw():
        for name, colour in COLOURS.items():
            buffer = io.BytesIO()
            Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
            captions = [] if name == "grey" else [f"a {name} thing", name]
            yield name, {"png": buffer.getvalue(), "json": json.dumps({"captions": captions}).encode()}

    write_shards({"train": raw()}, tmp_path / "shards", "a test", "none")
    return sorted((tmp_path / "shards").glob("*.tar"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFIXVLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(captioned, "MIN_SECONDS", 0)
    return tmp_path / "cache" / "means"


def encoder_of(seed=0):
    torch.manual_seed(seed)
    return MeanEncoder()


def test_features_and_captions_of_images_with_captions(paths, cache):
    encoder = encoder_of()
    features, captions = captioned_features(encoder, paths, decode_image, "encoding")
    assert captions == [(f"a {name} thing", name) for name in COLOURS if name != "grey"]
    images = [Image.new("RGB", (8, 8), colour) for name, colour in COLOURS.items() if name != "grey"]
    expected = mean_of(encoder(torch.stack([encoder.transform(image) for image in images])))
    torch.testing.assert_close(features, expected)


def test_they_are_encoded_once(paths, cache):
    first, captions = captioned_features(encoder_of(), paths, decode_image, "encoding")
    again = encoder_of()
    assert torch.equal(captioned_features(again, paths, decode_image, "encoding")[0], first)
    assert again.calls == 1  # the image that identifies it
    # One image that is not stored, between others that are.
    for path in cache.rglob("*.keys"):
        path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 3])
    features, texts = captioned_features(encoder_of(), paths, decode_image, "encoding")
    torch.testing.assert_close(features, first)
    assert texts == captions


def test_other_weights_have_other_features(paths, cache):
    first, _ = captioned_features(encoder_of(), paths, decode_image, "encoding")
    other = encoder_of(seed=1)
    assert not torch.allclose(captioned_features(other, paths, decode_image, "encoding")[0], first, atol=1e-2)
    assert other.calls == 4
    assert len(list(cache.iterdir())) == 2


def test_a_trained_encoder_a_short_work_and_a_full_disk_keep_nothing(paths, cache, monkeypatch, caplog):
    encoder = encoder_of()
    encoder.trained = True
    expected, _ = captioned_features(encoder, paths, decode_image, "encoding")
    monkeypatch.setattr(captioned, "MIN_SECONDS", 60)
    captioned_features(encoder_of(), paths, decode_image, "encoding")
    assert not cache.exists()
    monkeypatch.setattr(captioned, "MIN_SECONDS", 0)
    cache.parent.write_text("a file in place of the folder")
    found, _ = captioned_features(encoder_of(), paths, decode_image, "encoding")
    assert torch.equal(found, expected)
    assert "cannot be written" in caplog.text
