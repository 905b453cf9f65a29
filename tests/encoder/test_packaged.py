"""The packaged weights: every tensor has its place, and they see what is on photographs of scikit-image."""

import importlib.util

import pytest
import timm
import timm.data
import torch
from PIL import Image
from safetensors.torch import load_file

from prefixvlm.encoder import packaged
from prefixvlm.encoder.timm import TimmEncoder

needs_packages = pytest.mark.skipif(
    any(
        importlib.util.find_spec(name) is None
        for name in ("skimage", *(package for package, _ in packaged.FILES.values()))
    ),
    reason="prefixvlm[photos] or scikit-image is not installed (make install)",
)
MODELS = {"tf_efficientnet_lite0": 4_652_008, "tf_efficientnet_lite2": 6_092_072}  # parameters, of timm's table
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
# Photographs of scikit-image, and ImageNet classes that must be among the five likeliest.
PHOTOS = {
    "chelsea.png": ("tabby", "tiger cat", "Egyptian cat"),
    "coffee.png": ("espresso", "cup"),
    "rocket.jpg": ("missile", "space shuttle"),
    "motorcycle_left.png": ("moped", "motor scooter"),
    "page.png": ("crossword puzzle", "web site"),
}


@needs_packages
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_the_weights_see(name, monkeypatch, tmp_path):
    monkeypatch.setenv("PREFIXVLM_CACHE", str(tmp_path))
    encoder = TimmEncoder(name, pretrained="package", exact_pixels=False)
    weights = load_file(packaged.packaged_weights(name))
    assert (
        sum(value.numel() for key, value in weights.items() if "running" not in key and "num_" not in key)
        == MODELS[name]
    )
    folder = packaged.package_folder("skimage") / "data"
    pixels = torch.stack([encoder.transform(Image.open(folder / photo)) for photo in PHOTOS])
    logits = encoder(pixels)[:, 0] @ weights["classifier.weight"].T + weights["classifier.bias"]
    names = timm.data.ImageNetInfo()
    for photo, row in zip(PHOTOS, logits, strict=True):
        top = [names.index_to_description(int(index)) for index in row.topk(5).indices]
        for name in PHOTOS[photo]:
            assert any(name in each.split(", ") for each in top), (photo, top)
    # Not ImageNet's usual mean and deviation: timm's configuration of these weights has its own.
    assert "mean=tensor([0.5000, 0.5000, 0.5000])" in repr(encoder.transform)


def write(path, weights):
    torch.save(weights, path)
    return path


def test_other_weights_are_refused(tmp_path):
    wanted = timm.create_model("tf_efficientnet_lite0").state_dict()
    names = [f"layer{index}.{name.rpartition('.')[2]}" for index, name in enumerate(wanted)]
    other, out = dict(zip(names, wanted.values(), strict=True)), tmp_path / "out.safetensors"
    packaged.convert("tf_efficientnet_lite0", write(tmp_path / "right.pth", other), out)
    assert all(value.equal(wanted[name]) for name, value in load_file(out).items())
    out.unlink()
    swapped = {**other, names[1]: other[names[1]][:-1]}
    lacking = dict(list(other.items())[:-1])
    for weights, reason in (
        (swapped, "has other weights"),
        (lacking, "has other weights"),
        ([object()], "cannot be read"),
    ):
        with pytest.raises(ValueError, match=reason):
            packaged.convert("tf_efficientnet_lite0", write(tmp_path / "wrong.pth", weights), out)
    assert not out.exists()


def test_a_model_without_a_package_is_refused():
    with pytest.raises(ValueError, match=r"no package has weights of resnet50: set encoder\.model_name to tf_effic"):
        TimmEncoder("resnet50", pretrained="package")
