"""What the encoders of both libraries share: published widths on the meta device, squares of patches, errors."""

import inspect
from collections.abc import Callable

import pytest
import torch
from PIL import Image
from torch import Tensor

from prefixvlm.encoder.openclip import OpenClipEncoder
from prefixvlm.encoder.pretrained import PretrainedEncoder, split_squares
from prefixvlm.encoder.timm import TimmEncoder

PATCH = {"features": "patch"}


# Widths and numbers of patches from papers and model cards: CLIP, SigLIP, LLaVA-1.5, MAGMA, LiMBeR, VGG, DINOv2.
@pytest.mark.parametrize(
    ("kind", "name", "options", "grid", "width"),
    [
        (OpenClipEncoder, "RN50x4-quickgelu", {}, None, 640),
        (OpenClipEncoder, "ViT-L-14-336-quickgelu", PATCH | {"layer": -2}, (24, 24), 1024),
        (OpenClipEncoder, "ViT-L-14-336-quickgelu", PATCH | {"layer": [-5, -2]}, (24, 24), 2048),
        (OpenClipEncoder, "ViT-L-14-336-quickgelu", PATCH | {"pixel_shuffle": 2}, (12, 12), 4096),
        (OpenClipEncoder, "RN50x16-quickgelu", PATCH, (12, 12), 3072),
        (OpenClipEncoder, "RN50x16-quickgelu", PATCH | {"image_size": 448}, (14, 14), 3072),
        (OpenClipEncoder, "ViT-B-16-SigLIP", {}, None, 768),
        (OpenClipEncoder, "ViT-B-16-SigLIP", PATCH | {"image_size": 384}, (24, 24), 768),
        (TimmEncoder, "resnet50", {}, None, 2048),
        (TimmEncoder, "resnet101", PATCH, (7, 7), 2048),
        (TimmEncoder, "vgg16", {}, None, 4096),
        (TimmEncoder, "vgg16", PATCH | {"layer": 4}, (14, 14), 512),
        (TimmEncoder, "nf_resnet50", PATCH | {"image_size": 224}, (7, 7), 2048),
        (TimmEncoder, "convnext_base", PATCH, (7, 7), 1024),
        (TimmEncoder, "vit_small_patch14_dinov2", {}, None, 384),
        (TimmEncoder, "vit_small_patch14_reg4_dinov2", PATCH, (37, 37), 384),
        (TimmEncoder, "vit_small_patch14_reg4_dinov2", PATCH | {"image_size": 224}, (16, 16), 384),
        (TimmEncoder, "beit_large_patch16_224", PATCH, (14, 14), 1024),
        (TimmEncoder, "swin_tiny_patch4_window7_224", PATCH, (7, 7), 768),
    ],
)
def test_on_the_meta_device_nothing_is_loaded_and_the_widths_are_the_published_ones(
    kind: Callable, name: str, options: dict, grid, width: int, monkeypatch
) -> None:
    def load(*_args: object, **_keywords: object) -> None:
        raise AssertionError("something was loaded")

    monkeypatch.setattr("torch.nn.Module.load_state_dict", load)
    monkeypatch.setattr("open_clip.factory.download_pretrained", load)
    pretrained: str | bool = "openai" if kind is OpenClipEncoder else True
    for each in (pretrained, "no/such/file.pt", "random", None):
        with torch.device("meta"):
            encoder = kind(name, each, **options)
        assert (encoder.grid, encoder.feature_width) == (grid, width)
        assert encoder.num_features == (grid[0] * grid[1] if grid else 1)
        assert {value.device.type for value in encoder.state_dict().values()} == {"meta"}
        if "layer" in options or "image_size" in options:
            break


def test_trained_weights_can_be_counted_on_the_meta_device() -> None:
    with torch.device("meta"):
        encoder = TimmEncoder("nf_resnet50", trained=True)  # Frozen's
        patches = TimmEncoder("vgg16", trained=True, features="patch")
    assert (encoder.num_features, encoder.feature_width) == (1, 2048)
    assert sum(p.numel() for p in encoder.parameters() if p.requires_grad) == 23_508_032
    assert sum(p.numel() for p in patches.parameters() if p.requires_grad) == 14_714_688  # its convolutions


def test_a_hub_repository_has_no_sizes_of_its_own() -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=r"model_name is hf-hub:a/b, whose sizes only its repos"):
        OpenClipEncoder("hf-hub:a/b")


def naive_squares(features: Tensor, columns: int, size: int) -> list[list[Tensor]]:
    """features: float[N, D] of one image -> the patches of each square; squares and patches in reading order."""
    rows = len(features) // columns
    return [
        [features[(top + down) * columns + left + right] for down in range(size) for right in range(size)]
        for top in range(0, rows, size)
        for left in range(0, columns, size)
    ]


def vit(**options) -> PretrainedEncoder:
    return TimmEncoder("test_vit", "random", features="patch", image_size=96, **options)


@torch.no_grad()
def test_patches_are_averaged_then_shuffled_then_normalized() -> None:
    pixel_values = torch.randn(2, 3, 96, 96)
    plain, pooled = vit(), vit(average_pooling=3)
    shuffled, both = vit(pixel_shuffle=3), vit(average_pooling=3, pixel_shuffle=2, normalize=True)
    assert [(e.grid, e.num_features, e.feature_width) for e in (plain, pooled, shuffled, both)] == [
        ((6, 6), 36, 64),
        ((2, 2), 4, 64),
        ((2, 2), 4, 576),
        ((1, 1), 1, 256),
    ]
    for image in range(2):
        squares = naive_squares(plain(pixel_values)[image], 6, 3)
        means = torch.stack([sum(square) / 9 for square in squares])
        torch.testing.assert_close(pooled(pixel_values)[image], means)
        torch.testing.assert_close(shuffled(pixel_values)[image], torch.stack([torch.cat(s) for s in squares]))
        joined = torch.cat(naive_squares(means, 2, 2)[0])
        torch.testing.assert_close(both(pixel_values)[image, 0], joined / joined.square().sum().sqrt())


def test_squares_of_an_oblong_grid() -> None:
    maps = torch.randn(1, 5, 4, 6)
    squares = split_squares(maps, 2, "encoder.pixel_shuffle").permute(0, 3, 5, 1, 2, 4).flatten(1, 3)
    expected = [torch.cat(square) for square in naive_squares(maps[0].flatten(1).T, 6, 2)]
    assert torch.equal(squares[0].flatten(1).T, torch.stack(expected))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pixel_shuffle": 4}, "pixel_shuffle is 4, but it must divide the grid of 6 x 6 patches"),
        ({"average_pooling": 5}, "average_pooling is 5, but it must divide the grid of 6 x 6 patches"),
        ({"average_pooling": 2, "pixel_shuffle": 2}, "pixel_shuffle is 2, but it must divide the grid of 3 x 3"),
        ({"average_pooling": 0}, "average_pooling is 0, but it must be at least 1"),
    ],
)
def test_squares_that_do_not_fit(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"encoder.{message}"):
        vit(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pixel_shuffle": 2}, "pixel_shuffle is 2, but only patches have a grid: set encoder.features=patch"),
        ({"average_pooling": 2}, "average_pooling is 2, but only patches have a grid"),
        ({"layer": [1, 2]}, "layer is .1, 2., but only patches have a layer"),
        ({"layer": "1", "features": "patch"}, "layer is '1'; it must be an int, a list of ints or null"),
        ({"image_size": 0}, "image_size is 0, but it must be null or at least 1"),
        ({"trained": True, "dtype": "bfloat16"}, "dtype is bfloat16, but a trained encoder is float32"),
    ],
)
@pytest.mark.parametrize("kind", [OpenClipEncoder, TimmEncoder])
def test_errors_name_the_key(kind: Callable, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"encoder.{message}"):
        kind("anything", "random", **options)


@pytest.mark.parametrize("layer", [None, 1])
@pytest.mark.parametrize(("kind", "name", "size"), [(TimmEncoder, "test_vit", 100), (OpenClipEncoder, "RN50", 16)])
def test_an_image_size_that_a_model_cannot_take(kind: Callable, name: str, size: int, layer: int | None) -> None:
    layer = layer and (4 if name == "RN50" else layer)
    with pytest.raises(ValueError, match=rf"image_size is {size}, .* cannot see {size} x {size} pixels \(.*null") as e:
        kind(name, "random", features="patch", layer=layer, image_size=size)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pixels_of_loaders_are_normalized_by_the_encoder(exact: bool, dtype: str) -> None:
    encoder = TimmEncoder("test_vit", "random", dtype=dtype, exact_pixels=exact)
    images = [Image.effect_noise((200, 300), 60).convert("RGB"), Image.linear_gradient("L").convert("RGB")]
    pixels = torch.stack([encoder.loader_transform(image) for image in images])
    pixel_values = torch.stack([encoder.transform(image) for image in images])
    assert pixels.dtype == torch.uint8
    assert encoder.transform.exact == exact
    assert torch.equal(encoder.normalized(pixels), pixel_values)
    assert torch.equal(encoder.normalized(pixel_values), pixel_values)
    assert torch.equal(encoder(pixels), encoder(pixel_values))


@pytest.mark.parametrize("kind", [OpenClipEncoder, TimmEncoder])
def test_checkpoints_of_before_there_was_a_choice_keep_their_pixels(kind: Callable) -> None:
    assert inspect.signature(kind).parameters["exact_pixels"].default is True
