"""Transforms refuse images that they would make too large, and change nothing else."""

import pickle

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from prefixvlm.encoder.transforms import open_clip_transform, timm_transform

TIMM = {"input_size": (3, 32, 32), "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 0.9}
SHORTER = [
    open_clip_transform({"size": 224}),
    open_clip_transform({"size": (224, 200)}),
    timm_transform({**TIMM, "crop_mode": "center"}),
    timm_transform({**TIMM, "input_size": (3, 32, 48), "crop_mode": "center"}),
    timm_transform({**TIMM, "crop_mode": "border"}),
]


@pytest.mark.parametrize("transform", SHORTER[:4])
@pytest.mark.parametrize("size", [(1, 200_000), (2_000_000, 1), (25, 1_900_000)])
def test_a_thin_image_is_refused_before_it_is_enlarged(transform, size):
    with pytest.raises(ValueError, match=rf"{size[0]} x {size[1]} pixels, which the encoder's transform .*; crop it$"):
        transform(Image.new("1", size))


@pytest.mark.parametrize("transform", SHORTER)
def test_other_images_are_not(transform):
    assert transform(Image.new("RGB", (20, 300))).isfinite().all()


def test_a_transform_that_looks_at_the_whole_image_takes_thin_ones():
    for mode, size in (("squash", (2, 20_000)), ("longest", (100, 2000))):
        transform = open_clip_transform({"size": 32, "resize_mode": mode})
        assert transform(Image.new("RGB", size)).shape == (3, 32, 32)


def test_values_and_identity_are_those_of_the_library():
    image = Image.linear_gradient("L").resize((50, 40)).convert("RGB")
    theirs = image_transform_v2(PreprocessCfg(size=32), is_train=False)
    ours = open_clip_transform({"size": 32})
    assert torch.equal(ours(image), theirs(image))
    assert ours.pixels(image).dtype == torch.uint8
    assert torch.equal(ours.normalize(ours.pixels(image)), theirs(image))
    assert repr(ours).split(" at 0x")[0] == repr(theirs).split(" at 0x")[0]


def test_whatever_a_step_raises_is_of_the_image():
    transform = open_clip_transform({"size": 32})

    def full(image):
        raise MemoryError

    transform.transforms.insert(0, full)
    with pytest.raises(ValueError, match=r"^the image cannot be transformed \(MemoryError: \)$"):
        transform(Image.new("RGB", (4, 4)))


def noise(width, height):
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("options", [{}, {"resize_mode": "squash"}, {"interpolation": "bilinear"}, {"size": (30, 40)}])
@pytest.mark.parametrize("size", [(500, 375), (20, 31), (32, 32), (1, 40), (3000, 90), (2100, 2000)])
def test_resized_by_torch_the_values_are_nearly_those_of_pillow(options, size):
    options = {"size": 32} | options
    exact, fast = open_clip_transform(options), open_clip_transform(options, exact=False)
    # Noise is the worst case: neighbours differ by up to 255.
    difference = exact.pixels(noise(*size)).float() - fast.pixels(noise(*size))
    assert difference.abs().max() <= 2
    assert difference.abs().mean() < 0.1
    assert difference.mean().abs() < 0.05


def test_pixels_resized_by_torch_have_another_identity():
    exact, fast = (timm_transform({**TIMM, "crop_mode": "center"}, each) for each in (True, False))
    image = noise(500, 375)
    assert repr(exact) != repr(fast)
    assert not torch.equal(exact(image), fast(image))
    assert torch.equal(pickle.loads(pickle.dumps(fast)).pixels(image), fast.pixels(image))


def test_steps_that_torch_has_not_stay_those_of_pillow():
    image = noise(50, 75)
    for make, options in [
        (open_clip_transform, {"size": 32, "resize_mode": "longest"}),
        (timm_transform, {**TIMM, "crop_mode": "border"}),
        (timm_transform, {**TIMM, "interpolation": "lanczos"}),
    ]:
        exact, fast = make(options), make(options, exact=False)
        assert torch.equal(exact(image), fast(image))
        assert " of uint8" not in repr(fast)


@pytest.mark.parametrize("size", [(1, 200_000), (2_000_000, 1)])
def test_a_thin_image_is_refused_by_torch_too(size):
    with pytest.raises(ValueError, match="crop it$"):
        open_clip_transform({"size": 224}, exact=False)(Image.new("RGB", size))
