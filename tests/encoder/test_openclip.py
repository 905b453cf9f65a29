"""Compare OpenClipEncoder with open_clip's own models, small and random and saved as local folders."""

import json
import pickle
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from prefixvlm.encoder.openclip import OpenClipEncoder

TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
CONFIGS = {
    "vit": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 3},
        "text_cfg": TEXT,
    },
    "vit_custom_text": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 3},
        "text_cfg": TEXT,
    },
    "resnet": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
        "text_cfg": TEXT,
    },
    "timm": {
        "embed_dim": 64,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 160,
            "timm_model_name": "test_vit",
            "timm_pool": "token",
            "timm_proj": "none",
        },
        "text_cfg": TEXT,
    },
}
SIZES = {"vit": (32, 32, 16), "vit_custom_text": (32, 32, 16), "resnet": (64, 256, 4), "timm": (160, 64, 100)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Save each config as an open_clip local folder with random weights."""
    paths = {}
    for name, config in CONFIGS.items():
        config_folder = tmp_path_factory.mktemp("configs")
        (config_folder / f"test-{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(config_folder)
        torch.manual_seed(0)
        model = open_clip.create_model(f"test-{name}")
        folder = paths[name] = tmp_path_factory.mktemp(name)
        preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
        save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return paths


def reference(folder: Path):
    return open_clip.create_model(f"local-dir:{folder}").eval()


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_pooled_features_are_open_clips_image_features(folders: dict[str, Path], name: str) -> None:
    encoder = OpenClipEncoder(f"local-dir:{folders[name]}")
    pixel_values = torch.randn(2, 3, SIZES[name][0], SIZES[name][0])
    features = encoder(pixel_values)
    assert features.shape == (2, 1, encoder.feature_width)
    assert (encoder.num_features, encoder.feature_width) == (1, CONFIGS[name]["embed_dim"])
    expected = reference(folders[name]).encode_image(pixel_values)
    torch.testing.assert_close(features[:, 0], expected)
    normalized = OpenClipEncoder(f"local-dir:{folders[name]}", normalize=True)(pixel_values)
    torch.testing.assert_close(normalized[:, 0], expected / expected.square().sum(-1, keepdim=True).sqrt())


def recorded(model: torch.nn.Module, module: torch.nn.Module, pixel_values: Tensor) -> Tensor:
    """Return the output of a module during the model's own forward."""
    outputs: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    model.encode_image(pixel_values)
    handle.remove()
    return outputs[0]


@pytest.mark.parametrize("layer", [None, -1, -2, 0])
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_patch_features_are_the_outputs_of_open_clips_layers(folders: dict[str, Path], name: str, layer: int) -> None:
    encoder = OpenClipEncoder(f"local-dir:{folders[name]}", features="patch", layer=layer)
    model = reference(folders[name])
    size, width, num_patches = SIZES[name]
    pixel_values = torch.randn(2, 3, size, size)
    if name == "resnet":
        stages = ["conv3", *(f"layer{i}" for i in range(1, 5))]  # the stem is a method, checked by its shape alone
        maps = recorded(model, getattr(model.visual, stages[-1 if layer is None else layer]), pixel_values)
        expected = maps.flatten(2).transpose(1, 2)
    elif name == "timm":
        trunk = model.visual.trunk
        expected = recorded(model, trunk.norm if layer is None else trunk.blocks[layer], pixel_values)[:, 1:]
    else:
        blocks = model.visual.transformer.resblocks
        expected = recorded(model, model.visual.ln_post if layer is None else blocks[layer], pixel_values)[:, 1:]
    features = encoder(pixel_values)
    assert features.shape == (2, encoder.num_features, encoder.feature_width)
    if (name, layer) == ("resnet", 0):
        assert features.shape == (2, 256, 8)
        return
    torch.testing.assert_close(features, expected)
    if layer in (None, -1):
        assert (encoder.feature_width, encoder.num_features) == (width, num_patches)


def test_a_frozen_encoder_never_changes(folders: dict[str, Path]) -> None:
    encoder = OpenClipEncoder(f"local-dir:{folders['resnet']}")
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    assert any("running_mean" in name for name in before)
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    features = encoder(torch.randn(4, 3, 64, 64))  # pixels that require a gradient get one: inspect
    assert not features.requires_grad
    assert not features.is_inference()
    assert not any(p.requires_grad for p in encoder.parameters())
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


@pytest.mark.parametrize(("name", "layer"), [("vit", -2), ("vit", None), ("resnet", 3), ("timm", -2)])
def test_a_trained_encoder_gets_a_gradient_in_every_trained_weight(folders: dict[str, Path], name, layer) -> None:
    encoder = OpenClipEncoder(f"local-dir:{folders[name]}", features="patch", layer=layer, trained=True)
    assert encoder.training
    encoder(torch.randn(2, 3, SIZES[name][0], SIZES[name][0])).square().sum().backward()
    trained = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
    assert len(trained) > 10
    assert all(p.grad is not None for p in trained.values())
    with torch.no_grad():
        assert not encoder(torch.randn(1, 3, SIZES[name][0], SIZES[name][0])).requires_grad


@torch.no_grad()
def test_several_layers_are_concatenated(folders: dict[str, Path]) -> None:
    pixel_values = torch.randn(2, 3, 32, 32)
    model = reference(folders["vit"])
    blocks = [recorded(model, model.visual.transformer.resblocks[i], pixel_values)[:, 1:] for i in (0, 2)]
    encoder = OpenClipEncoder(f"local-dir:{folders['vit']}", features="patch", layer=[0, -1])
    torch.testing.assert_close(encoder(pixel_values), torch.cat(blocks, dim=-1))
    assert (encoder.grid, encoder.feature_width) == ((4, 4), 64)


@pytest.mark.parametrize("name", CONFIGS)
def test_another_image_size_changes_grid_and_transform_alone(folders: dict[str, Path], name: str) -> None:
    folder, size = f"local-dir:{folders[name]}", SIZES[name][0]
    own = OpenClipEncoder(folder, features="patch")
    larger = OpenClipEncoder(folder, features="patch", image_size=2 * size)
    assert larger.grid == (2 * own.grid[0], 2 * own.grid[1])
    assert larger.transform(Image.new("RGB", (50, 40))).shape == (3, 2 * size, 2 * size)
    weights = larger.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in own.state_dict().items() if v.shape == weights[k].shape)
    if name == "resnet":
        with pytest.raises(ValueError, match=r"image_size is 128, but this attention pool has positions for 64 only"):
            OpenClipEncoder(folder, image_size=128)
        assert OpenClipEncoder(folder, image_size=64).grid is None
    else:
        assert OpenClipEncoder(folder, image_size=2 * size)(torch.randn(1, 3, 2 * size, 2 * size)).shape[1] == 1


@torch.no_grad()
def test_positions_of_a_larger_image_are_interpolated(folders: dict[str, Path]) -> None:
    own, larger = (OpenClipEncoder(f"local-dir:{folders['vit']}", image_size=size) for size in (None, 64))
    positions, wider = own.visual.positional_embedding, larger.visual.positional_embedding
    assert torch.equal(wider[0], positions[0])  # the class token's
    assert (len(positions), len(wider)) == (17, 65)
    torch.testing.assert_close(wider[1:].mean(0), positions[1:].mean(0), atol=0.01, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_random_is_frozen_and_the_same_in_each_run(folders: dict[str, Path], name: str) -> None:
    folder = f"local-dir:{folders[name]}"
    first, own = OpenClipEncoder(folder, "random"), OpenClipEncoder(folder)
    torch.manual_seed(7)
    second = OpenClipEncoder(folder, "random")
    assert all(torch.equal(value, first.state_dict()[key]) for key, value in second.state_dict().items())
    assert any(not torch.equal(value, own.state_dict()[key]) for key, value in first.state_dict().items())
    assert not any(p.requires_grad for p in first.parameters())
    with pytest.raises(ValueError, match="pretrained is random, which is for a frozen control"):
        OpenClipEncoder(folder, "random", trained=True)


def test_only_the_needed_parts_of_the_model_stay(folders: dict[str, Path]) -> None:
    for name in ("vit", "vit_custom_text"):
        names = {name for name, _ in OpenClipEncoder(f"local-dir:{folders[name]}").named_parameters()}
        assert all(name.startswith("visual.") for name in names)
        assert not any("token_embedding" in name or "logit_scale" in name for name in names)
    assert OpenClipEncoder(f"local-dir:{folders['resnet']}", features="patch").visual.attnpool is None


def test_transform_is_the_models_own_and_survives_pickling(folders: dict[str, Path]) -> None:
    encoder = OpenClipEncoder(f"local-dir:{folders['vit']}")
    image = Image.new("RGB", (48, 40), (255, 0, 51))
    pixels = pickle.loads(pickle.dumps(encoder.transform))(image)
    assert pixels.shape == (3, 32, 32)
    torch.testing.assert_close(pixels[:, 5, 5], (torch.tensor([1.0, 0.0, 0.2]) - 0.5) / 0.25)  # the folder's mean, std


def test_a_weights_file_of_a_known_name_loads(folders: dict[str, Path]) -> None:
    weights = str(folders["vit"] / "open_clip_model.safetensors")
    by_file = OpenClipEncoder("test-vit", pretrained=weights)
    by_folder = OpenClipEncoder(f"local-dir:{folders['vit']}")
    assert all(torch.equal(v, by_folder.state_dict()[k]) for k, v in by_file.state_dict().items())


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"model_name": "local-dir:nowhere/at/all"}, r"nowhere/at/all does not.*train\.py experiment=clip_pretrain"),
        ({"model_name": "ViT-B32", "pretrained": "openai"}, "model_name is 'ViT-B32'.*ViT-B-32"),
        ({"model_name": "ViT-B-32"}, "pretrained is null.*laion2b_s34b_b79k"),
        ({"model_name": "ViT-B-32", "pretrained": "openia"}, "pretrained is 'openia', neither a file nor a tag"),
        ({"model_name": "ViT-B-32", "pretrained": "openai"}, "set encoder.model_name=ViT-B-32-quickgelu"),
        ({"model_name": "ViT-B-32", "features": "patches"}, "features is 'patches'.*pooled or patch"),
        ({"model_name": "ViT-B-32", "layer": -2}, "layer is -2.*features=patch"),
    ],
)
def test_errors_name_the_key(keywords: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        OpenClipEncoder(**keywords)
    assert "\n" not in str(caught.value)


def test_weights_that_do_not_fit_or_cannot_be_downloaded(folders: dict[str, Path], tmp_path: Path, monkeypatch) -> None:
    name = f"local-dir:{folders['vit']}"
    with pytest.raises(ValueError, match=r"encoder.pretrained is 'openai'.*encoder.pretrained=null"):
        OpenClipEncoder(name, pretrained="openai")
    with pytest.raises(ValueError, match=r"encoder.layer is 7"):
        OpenClipEncoder(name, features="patch", layer=7)
    with pytest.raises(ValueError, match=r"encoder.pretrained is .*could not be loaded") as caught:
        OpenClipEncoder("test-vit", pretrained=str(folders["resnet"] / "open_clip_model.safetensors"))
    assert "\n" not in str(caught.value)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"encoder.pretrained is .*could not be loaded"):
        OpenClipEncoder("test-vit", pretrained=str(broken))

    def wordless(*_args: object, **_keywords: object) -> None:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr("open_clip.create_model", wordless)
        with pytest.raises(ValueError, match=r"test-vit \(AssertionError\): if they"):
            OpenClipEncoder("test-vit", pretrained=str(broken))

    def offline(*_args: object, **_keywords: object) -> None:
        raise OSError("no network")

    config = json.loads((folders["vit"] / "open_clip_config.json").read_text())
    monkeypatch.setattr("open_clip.factory._get_hf_config", lambda *_args, **_keywords: config)
    monkeypatch.setattr("open_clip.factory.download_pretrained_from_hf", offline)
    with pytest.raises(ValueError, match=r"weights could not be loaded into hf-hub:some/repo"):
        OpenClipEncoder("hf-hub:some/repo")  # open_clip by itself would log a warning, with random weights
    monkeypatch.setattr("open_clip.factory.download_pretrained", offline)
    with pytest.raises(ValueError, match=r"encoder.pretrained is openai.*no network.*set encoder.pretrained to a file"):
        OpenClipEncoder("ViT-B-32-quickgelu", pretrained="openai")


class Casts(TorchDispatchMode):
    """Count the casts of these tensors."""

    def __init__(self, tensors) -> None:
        super().__init__()
        self.pointers = {tensor.data_ptr() for tensor in tensors}
        self.number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default:
            self.number += args[0].data_ptr() in self.pointers
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("features", ["pooled", "patch"])
@pytest.mark.parametrize("name", list(CONFIGS))
def test_frozen_weights_keep_their_dtype_and_are_not_cast_under_mixed_precision(folders, name, features):
    exact = OpenClipEncoder(f"local-dir:{folders[name]}", features=features)
    pixels = torch.rand(2, 3, SIZES[name][0], SIZES[name][0])
    for dtype in ("bfloat16", "float32"):
        encoder = OpenClipEncoder(f"local-dir:{folders[name]}", features=features, dtype=dtype)
        assert {p.dtype for p in encoder.parameters()} == {getattr(torch, dtype)}
        with Casts(encoder.parameters()) as casts, torch.autocast("cpu", torch.bfloat16):
            found = encoder(pixels)
        assert casts.number == 0
        assert found.dtype == torch.float32
        expected = exact(pixels)
        if dtype == "float32":
            assert torch.equal(found, expected)
        else:
            assert (found - expected).norm() < 0.03 * expected.norm()
    assert encoder.num_features == exact.num_features


def test_a_trained_encoder_is_float32_and_uses_mixed_precision(folders):
    encoder = OpenClipEncoder(f"local-dir:{folders['vit']}", trained=True, dtype="auto")
    with Casts(encoder.parameters()) as casts, torch.autocast("cpu", torch.bfloat16):
        encoder(torch.rand(2, 3, 32, 32)).sum().backward()
    assert casts.number > 0
    assert {p.grad.dtype for p in encoder.parameters() if p.requires_grad} == {torch.float32}
    with pytest.raises(ValueError, match="encoder.dtype is bfloat16, but a trained encoder is float32"):
        OpenClipEncoder(f"local-dir:{folders['vit']}", trained=True, dtype="bfloat16")
    with pytest.raises(ValueError, match="encoder.dtype is 'int8'; accepted are auto, float32, bfloat16 and float16"):
        OpenClipEncoder(f"local-dir:{folders['vit']}", dtype="int8")


@pytest.mark.parametrize("pretrained", ["webli", "random", "FILE"])
def test_the_transform_does_not_depend_on_the_source_of_the_weights(tmp_path, pretrained, monkeypatch):
    """open_clip itself gives a file of SigLIP weights the transform of OpenAI's CLIP."""
    if pretrained == "FILE":
        pretrained = str(tmp_path / "weights.safetensors")
        Path(pretrained).touch()
    with torch.device("meta"):  # nothing is read
        encoder = OpenClipEncoder("ViT-B-16-SigLIP", pretrained)
    resize, normalise = encoder.transform.transforms[0], encoder.transform.transforms[-1]
    assert resize.size == (224, 224), "squashed, not cropped"
    assert torch.as_tensor(normalise.mean).tolist() == torch.as_tensor(normalise.std).tolist() == [0.5, 0.5, 0.5]
