"""Compare TimmEncoder with timm's own forward passes, on small models with random weights."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from prefixvlm.encoder.timm import TimmEncoder

SIZES = {"test_vit": (64, 10), "test_resnet": (96, 5), "test_convnext": (64, 5), "test_nfnet": (192, 5)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Save random weights of each model, with its classifier."""
    folder = tmp_path_factory.mktemp("weights")
    for name in SIZES:
        save_file(scrambled(timm.create_model(name)).state_dict(), folder / f"{name}.safetensors")
    return {name: str(folder / f"{name}.safetensors") for name in SIZES}


def scrambled(model: nn.Module) -> nn.Module:
    """Randomize also tensors that start at 0 or 1: BatchNorm's statistics, the last norm of a residual block."""
    torch.manual_seed(0)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value.add_(torch.rand_like(value) * (0.5 if "var" in name else 0.05))
    return model


def reference(name: str, path: str) -> nn.Module:
    model = timm.create_model(name)
    timm.models.load_checkpoint(model, path)
    return model.eval()


@pytest.mark.parametrize("name", SIZES)
@torch.no_grad()
def test_pooled_features_are_the_input_of_the_classifier(files: dict[str, str], name: str) -> None:
    encoder, model = TimmEncoder(name, files[name]), reference(name, files[name])
    pixel_values = torch.randn(2, 3, 160, 160)
    expected = model.forward_head(model.forward_features(pixel_values), pre_logits=True)
    features = encoder(pixel_values)
    assert (encoder.num_features, encoder.feature_width, encoder.grid) == (1, model.num_features, None)
    torch.testing.assert_close(features[:, 0], expected)
    torch.testing.assert_close(model.get_classifier()(features[:, 0]), model(pixel_values))
    normalized = TimmEncoder(name, files[name], normalize=True)(pixel_values)[:, 0]
    torch.testing.assert_close(normalized, expected / expected.square().sum(-1, keepdim=True).sqrt())


@pytest.mark.parametrize("name", SIZES)
@torch.no_grad()
def test_patches_are_the_models_last_map_in_reading_order(files: dict[str, str], name: str) -> None:
    width, side = SIZES[name]
    encoder = TimmEncoder(name, files[name], features="patch")
    pixel_values = torch.randn(2, 3, 160, 160)
    expected = reference(name, files[name]).forward_features(pixel_values)
    features = encoder(pixel_values)
    assert (encoder.num_features, encoder.feature_width, encoder.grid) == (side * side, width, (side, side))
    assert features.shape == (2, side * side, width)
    if name == "test_vit":
        torch.testing.assert_close(features, expected[:, 1:])
        return
    for row in range(side):
        for column in range(side):
            torch.testing.assert_close(features[:, row * side + column], expected[:, :, row, column])


@pytest.mark.parametrize("name", SIZES)
@torch.no_grad()
def test_a_bright_patch_moves_its_own_feature_most(files: dict[str, str], name: str) -> None:
    encoder = TimmEncoder(name, files[name], features="patch")
    rows, columns = encoder.grid
    size = 160 // rows
    for row, column in ((0, columns - 1), (rows // 2, 1)):
        pixel_values = torch.zeros(1, 3, 160, 160)
        dark = encoder(pixel_values)
        pixel_values[:, :, row * size : (row + 1) * size, column * size : (column + 1) * size] = 3
        moved = (encoder(pixel_values) - dark).norm(dim=-1)[0]
        assert moved.argmax() == row * columns + column


def block_outputs(model: nn.Module, blocks: list[int], pixel_values: Tensor) -> list[Tensor]:
    outputs: dict[int, Tensor] = {}
    for block in blocks:
        model.blocks[block].register_forward_hook(lambda _m, _i, output, block=block: outputs.update({block: output}))
    model(pixel_values)
    return [outputs[block][:, 1:] for block in blocks]


@torch.no_grad()
def test_several_layers_are_concatenated(files: dict[str, str]) -> None:
    pixel_values = torch.randn(2, 3, 160, 160)
    blocks = block_outputs(reference("test_vit", files["test_vit"]), [0, 4], pixel_values)
    for layer, expected in (([0, -2], torch.cat(blocks, dim=-1)), (-2, blocks[1]), ([0], blocks[0])):
        encoder = TimmEncoder("test_vit", files["test_vit"], features="patch", layer=layer)
        torch.testing.assert_close(encoder(pixel_values), expected)
        assert encoder.feature_width == expected.shape[-1]


def test_batch_norm_statistics_change_only_in_a_trained_encoder(files: dict[str, str]) -> None:
    pixel_values = torch.randn(4, 3, 160, 160) + 1
    frozen = TimmEncoder("test_resnet", files["test_resnet"])
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    frozen.train()
    assert not frozen(pixel_values).requires_grad
    assert not any(module.training for module in frozen.modules())
    assert not any(p.requires_grad for p in frozen.parameters())
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())
    trained = TimmEncoder("test_resnet", trained=True)
    before = {name: value.clone() for name, value in trained.named_buffers() if "running" in name}
    trained(pixel_values).square().sum().backward()
    assert before
    assert all(not torch.equal(value, before[name]) for name, value in trained.named_buffers() if name in before)


@pytest.mark.parametrize("features", ["pooled", "patch"])
@pytest.mark.parametrize("name", SIZES)
def test_from_scratch_each_used_weight_gets_a_gradient(name: str, features: str) -> None:
    encoder = TimmEncoder(name, features=features, trained=True, image_size=64)
    assert encoder.training
    encoder(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in encoder.parameters())
    unused = [name for name, p in encoder.named_parameters() if not p.requires_grad]
    assert bool(unused) == ((name, features) == ("test_convnext", "patch"))  # the norm of its head


@pytest.mark.parametrize("name", SIZES)
@torch.no_grad()
def test_frozen_in_bfloat16_it_is_timms_model_in_bfloat16(files: dict[str, str], name: str) -> None:
    pixel_values = torch.randn(2, 3, 160, 160)
    encoder = TimmEncoder(name, files[name], dtype="bfloat16")
    with torch.autocast("cpu", torch.float16):
        features = encoder(pixel_values)
    assert {p.dtype for p in encoder.parameters()} == {torch.bfloat16}
    assert features.dtype == torch.float32
    model = reference(name, files[name]).bfloat16()
    expected = model.forward_head(model.forward_features(pixel_values.bfloat16()), pre_logits=True)
    torch.testing.assert_close(features[:, 0], expected.float())


def test_transform_is_timms_of_the_model_and_survives_pickling(files: dict[str, str]) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    for size in (160, 96):
        encoder = TimmEncoder("test_resnet", files["test_resnet"], image_size=None if size == 160 else size)
        transform = pickle.loads(pickle.dumps(encoder.transform))
        config = timm.data.resolve_model_data_config(timm.create_model("test_resnet")) | {"input_size": (3, size, size)}
        assert torch.equal(transform(image), timm.data.create_transform(**config)(image))
        assert transform(image.convert("L")).shape == (3, size, size)


@torch.no_grad()
def test_another_image_size_interpolates_the_positions_of_a_vit(files: dict[str, str]) -> None:
    own = TimmEncoder("test_vit", files["test_vit"], features="patch")
    larger = TimmEncoder("test_vit", files["test_vit"], features="patch", image_size=224)
    assert (own.grid, larger.grid) == ((10, 10), (14, 14))
    expected = resample_abs_pos_embed(own.visual.pos_embed, (14, 14), num_prefix_tokens=1)
    torch.testing.assert_close(larger.visual.pos_embed, expected)
    assert larger(torch.randn(2, 3, 224, 224)).shape == (2, 196, 64)
    assert TimmEncoder("test_resnet", files["test_resnet"], "patch", image_size=224).grid == (7, 7)


def test_random_is_frozen_and_the_same_in_each_run() -> None:
    first = TimmEncoder("test_resnet", "random")
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    second = TimmEncoder("test_resnet", "random")
    assert torch.equal(torch.rand(3), expected)  # the run's own draws are as without it
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in second.state_dict().items())
    assert not any(p.requires_grad for p in first.parameters())
    scratch = TimmEncoder("test_resnet", trained=True)
    assert not torch.equal(scratch.visual.conv1[0].weight, first.visual.conv1[0].weight)


def test_a_weights_file_fits_with_or_without_a_classifier_or_not_at_all(files: dict[str, str], tmp_path: Path) -> None:
    expected = TimmEncoder("test_resnet", files["test_resnet"]).state_dict()
    headless, ours, broken = tmp_path / "headless.pt", tmp_path / "ten.pt", tmp_path / "broken.pt"
    torch.save({name.removeprefix("visual."): value for name, value in expected.items()}, headless)
    weights = reference("test_resnet", files["test_resnet"])
    weights.reset_classifier(10)
    torch.save({"state_dict": weights.state_dict()}, ours)
    for path in (headless, ours):
        found = TimmEncoder("test_resnet", str(path)).state_dict()
        assert all(torch.equal(value, found[name]) for name, value in expected.items())
    for change in ({"more": torch.zeros(1)}, {"bn1.weight": None}):
        changed = {name: v for name, v in (weights.state_dict() | change).items() if v is not None}
        torch.save(changed, broken)
        with pytest.raises(ValueError, match=r"pretrained is .*could not be loaded into test_resnet \(they lack") as e:
            TimmEncoder("test_resnet", str(broken))
        assert "\n" not in str(e.value)
    for path in (files["test_vit"], __file__):
        with pytest.raises(ValueError, match=r"pretrained is .*could not be loaded into test_resnet"):
            TimmEncoder("test_resnet", path)
    torch.nn.Linear(2, 2).load_state_dict({}, strict=False)  # as ever outside


class Evil:
    def __reduce__(self):
        return print, ("evil",)


def test_no_code_of_a_weights_file_runs(tmp_path: Path, capsys) -> None:
    torch.save({"a": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="could not be loaded"):
        TimmEncoder("test_resnet", str(tmp_path / "evil.pt"))
    assert "evil\n" not in capsys.readouterr().out


def test_a_failed_download_is_an_error_of_one_sentence(monkeypatch) -> None:
    def offline(*_args: object, **_keywords: object) -> None:
        raise OSError("no network\nat all")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", offline)
    with pytest.raises(ValueError, match=r"pretrained is True.*resnet18 \(no network\): if they.*to a file") as caught:
        TimmEncoder("resnet18", True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"model_name": "resnet05"}, r"model_name is 'resnet05', which timm does not know: it knows resnet"),
        ({"model_name": "resnet50.a9_in1k"}, r"resnet50 has no weights of that tag: its tags are a1_in1k"),
        ({"model_name": "resnet18"}, r"pretrained is null, which would freeze resnet18 at random weights"),
        ({"model_name": "resnet18", "pretrained": "a1_in1k"}, r"pretrained is 'a1_in1k', which is not a file"),
        ({"model_name": "vit_base_patch16_gap_224", "pretrained": True}, "timm has no weights of vit_base_patch16_gap"),
        ({"model_name": "resnet18", "pretrained": "random", "trained": True}, "pretrained is random.*pretrained=null"),
        ({"model_name": "test_resnet", "features": "patch", "layer": [3, 4]}, "layer is .3, 4.*10 x 10 and 5 x 5"),
        ({"model_name": "test_vit", "features": "patch", "layer": [-1, 5]}, "layer is .-1, 5.*a layer twice"),
        ({"model_name": "test_vit", "features": "patch", "layer": 6}, "layer is 6, but this encoder has no such"),
        ({"model_name": "test_vit", "features": "patch", "layer": []}, r"layer is \[\]; it must be an int, a list"),
    ],
)
def test_errors_name_the_key(keywords: dict, message: str) -> None:
    if keywords["model_name"].startswith("test_"):
        keywords = {"pretrained": "random", **keywords}
    with pytest.raises(ValueError, match=f"encoder.*{message}") as caught:
        TimmEncoder(**keywords)
    assert "\n" not in str(caught.value)
