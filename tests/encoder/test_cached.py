"""The encoder of stored features and the identity of a folder; a damaged folder gives an error of one sentence."""

import json
import pickle
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image

from prefixvlm.encoder.cached import BLACK, IDENTITY, CachedEncoder, local_shards, read_identity, write_identity
from prefixvlm.encoder.interface import Identity

NODE = {"_target_": "prefixvlm.encoder.openclip.OpenClipEncoder", "model_name": "x", "features": "patch"}
IDENTITY_OF_X = Identity(NODE, "0123", "4567", 2, 3)
BLACK_FEATURES = np.arange(6, dtype=np.float32).reshape(2, 3) / 8


@pytest.fixture
def folder(tmp_path):
    write_identity(tmp_path, IDENTITY_OF_X, BLACK_FEATURES)
    return tmp_path


def test_the_widths_and_the_identity_are_the_original_encoders(folder):
    encoder = CachedEncoder(str(folder))
    assert (encoder.num_features, encoder.feature_width, encoder.trained) == (2, 3, False)
    assert encoder.identity == IDENTITY_OF_X == CachedEncoder(f"{folder}/{{split}}-*.tar").identity
    assert encoder.reads_features
    assert not list(encoder.parameters())
    assert str(IDENTITY_OF_X) == "0123 (model_name=x, features=patch)"


def test_a_grid_is_kept_where_it_is_known_and_folders_without_one_are_the_same(tmp_path):
    known = replace(IDENTITY_OF_X, grid=(1, 2))
    write_identity(tmp_path, known, BLACK_FEATURES)
    encoder = CachedEncoder(str(tmp_path))
    assert encoder.grid == encoder.identity.grid == (1, 2)
    assert encoder.identity == IDENTITY_OF_X
    content = asdict(known)
    del content["grid"]
    (tmp_path / IDENTITY).write_text(json.dumps(content))
    assert CachedEncoder(str(tmp_path)).grid is None
    assert CachedEncoder(str(tmp_path)).identity == known


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_features_come_back_as_float32_through_a_pickled_transform(folder, dtype):
    encoder = CachedEncoder(str(folder))
    features = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(dtype)
    transform = pickle.loads(pickle.dumps(encoder.transform))
    pixel_values = torch.stack([transform(each) for each in features])
    assert pixel_values.dtype == torch.float32
    assert torch.equal(encoder(pixel_values), torch.from_numpy(features).float())
    assert encoder(pixel_values.bfloat16()).dtype == torch.float32


def test_a_black_image_gives_stored_features_and_any_other_is_refused(folder):
    transform = CachedEncoder(str(folder)).transform
    assert torch.equal(transform(Image.new("RGB", (64, 64))), torch.from_numpy(BLACK_FEATURES))
    image = Image.new("RGB", (64, 64))
    image.putpixel((63, 63), (0, 0, 1))
    with pytest.raises(ValueError, match=r"encoder=cached reads features, but the shards hold images; set encoder"):
        transform(image)


def test_features_of_another_shape_are_refused(folder):
    with pytest.raises(ValueError, match=r"features are \(1, 3\), but those of .* are \(2, 3\).*encoder\.features_of"):
        CachedEncoder(str(folder)).transform(np.zeros((1, 3), np.float16))


def test_a_folder_that_holds_no_features_is_refused(tmp_path):
    assert read_identity(str(tmp_path)) is None
    with pytest.raises(ValueError, match=r"encoder\.features_of is .* no features\.json; make it with `prefixvlm sha"):
        CachedEncoder(str(tmp_path))
    with pytest.raises(ValueError, match=r"encoder\.features_of is \{.*set it to one folder"):
        CachedEncoder({"a": {"shards": "b"}})


@pytest.mark.parametrize(
    "change",
    [
        {"num_features": 0},
        {"feature_width": "3"},
        {"num_features": True},
        {"fingerprint": 1},
        {"encoder": "openclip"},
        {"other": 1},
        {"transform": None},
        {"grid": [1, 3]},
        {"grid": [-1, -2]},
        {"grid": 2},
    ],
)
def test_a_damaged_identity_is_an_error_of_one_sentence(folder, change):
    (folder / IDENTITY).write_text(json.dumps(asdict(IDENTITY_OF_X) | change))
    with pytest.raises(ValueError, match=r"features\.json is not a valid identity") as caught:
        CachedEncoder(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "[" * 5000])
def test_a_file_that_is_no_identity_is_an_error(folder, text):
    (folder / IDENTITY).write_text(text)
    with pytest.raises(ValueError, match=r"features\.json is not a valid identity"):
        CachedEncoder(str(folder))


def test_the_features_of_black_must_be_whole(folder):
    (folder / BLACK).write_bytes((folder / BLACK).read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"does not hold the features of a black image, float16 \(2, 3\)"):
        CachedEncoder(str(folder))
    (folder / BLACK).unlink()
    with pytest.raises(ValueError, match="does not hold the features of a black image"):
        CachedEncoder(str(folder))


def test_all_folders_that_data_shards_may_name():
    assert local_shards("a/{split}-*.tar") == ["a/{split}-*.tar"]
    assert local_shards({"a": {"shards": "x"}, "b": {"shards": "https://y/z", "weight": 2}}) == ["x"]
