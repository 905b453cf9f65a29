"""Clip on small random open_clip models saved as local folders, against open_clip's own features."""

import json
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from prefixvlm.encoder.clip import Clip
from prefixvlm.encoder.openclip import OpenClipEncoder

TEXT = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VISION = {
    "vit": {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2, "patch_dropout": 0.5},
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
}
TEXTS = ["a red circle", "", "A photo depicts two dogs that run along a beach", "blue", "a red circle."]
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Save both kinds of image encoder with random weights, and each again with others."""
    made = {}
    for seed, name in enumerate(["vit", "resnet", "other-vit", "other-resnet"]):
        config = {"embed_dim": 24, "vision_cfg": VISION[name.split("-")[-1]], "text_cfg": TEXT}
        torch.manual_seed(seed)
        model = open_clip.model.CLIP(**config)
        folder = made[name] = tmp_path_factory.mktemp(name)
        preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
        (folder / CONFIG).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
        save_file(model.state_dict(), folder / WEIGHTS)
    return made


def pictures() -> list[Image.Image]:
    torch.manual_seed(9)
    modes = ["RGB", "L", "RGBA", "RGB", "P"]
    sizes = [(48, 40), (32, 64), (70, 70), (20, 31), (64, 48)]
    return [
        Image.frombytes("RGB", size, bytes(torch.randint(256, (3 * size[0] * size[1],)).tolist())).convert(mode)
        for mode, size in zip(modes, sizes, strict=True)
    ]


@pytest.mark.parametrize("batch_size", [2, 64])
@pytest.mark.parametrize("name", VISION)
def test_features_are_open_clips_own(folders: dict[str, Path], name: str, batch_size: int) -> None:
    clip = Clip(f"local-dir:{folders[name]}", batch_size=batch_size)
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folders[name]}")
    model.eval()
    with torch.no_grad():
        images = torch.cat([model.encode_image(transform(image)[None]) for image in pictures()])
        tokenizer = open_clip.SimpleTokenizer(context_length=8)
        texts = torch.cat([model.encode_text(tokenizer([text])) for text in TEXTS])
    for found, expected in ((clip.image_features(pictures()), images), (clip.text_features(TEXTS), texts)):
        assert found.shape == (5, 24)
        assert found.dtype == torch.float32
        assert not found.requires_grad
        assert torch.pdist(found).min() > 1e-4  # so that one row cannot stand for another
        torch.testing.assert_close(found, expected / expected.square().sum(-1, keepdim=True).sqrt())


def test_long_texts_are_cut_and_the_end_token_stays(folders: dict[str, Path]) -> None:
    clip = Clip(f"local-dir:{folders['vit']}")
    six, seven, other = clip.text_features(["a b c d e f", "a b c d e f g", "a b c d e g"])
    assert torch.equal(six, seven)  # eight places, two of them for the start and the end
    assert not torch.equal(six, other)


def test_clip_is_frozen(folders: dict[str, Path]) -> None:
    clip = Clip(f"local-dir:{folders['resnet']}")
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    nn.ModuleList([clip]).train()
    assert not any(module.training for module in clip.modules())
    assert not any(parameter.requires_grad for parameter in clip.parameters())
    clip.image_features(pictures())
    assert all(torch.equal(value, before[name]) for name, value in clip.state_dict().items())


@pytest.mark.parametrize("name", VISION)
def test_its_own_image_encoder_is_recognized(folders: dict[str, Path], name: str) -> None:
    clip, other = Clip(f"local-dir:{folders[name]}"), Clip(f"local-dir:{folders[f'other-{name}']}")
    for keywords in ({}, {"features": "patch"}, {"features": "patch", "layer": 1, "trained": True}):
        encoder = OpenClipEncoder(f"local-dir:{folders[name]}", **keywords)
        assert clip.same_image_encoder(encoder)
        assert not other.same_image_encoder(encoder)
    assert clip.same_image_encoder(encoder.bfloat16())
    assert not other.same_image_encoder(encoder)
    with torch.no_grad():  # one value, by one step of its precision
        last = list(encoder.visual.parameters())[-1].flatten()[-1:]
        last.copy_(torch.nextafter(last, last + 1))
    assert not clip.same_image_encoder(encoder)
    assert not clip.same_image_encoder(nn.Identity())


def test_image_encoders_of_other_kinds_and_sizes_differ(folders: dict[str, Path]) -> None:
    vit, resnet = (f"local-dir:{folders[name]}" for name in VISION)
    assert not Clip(vit).same_image_encoder(OpenClipEncoder(resnet))
    assert not Clip(resnet).same_image_encoder(OpenClipEncoder(vit))
    larger = OpenClipEncoder(vit)
    larger.visual.positional_embedding = nn.Parameter(larger.visual.positional_embedding.repeat(2, 1))
    assert not Clip(vit).same_image_encoder(larger)


def test_the_text_encoder_does_not_matter_to_it(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(folders["vit"] / CONFIG, tmp_path)
    state = load_file(folders["vit"] / WEIGHTS)
    save_file(
        {name: value if name.startswith("visual.") else value + 1 for name, value in state.items()}, tmp_path / WEIGHTS
    )
    assert Clip(f"local-dir:{folders['vit']}").same_image_encoder(OpenClipEncoder(f"local-dir:{tmp_path}"))


def test_no_code_of_a_folder_runs(folders: dict[str, Path], tmp_path: Path) -> None:
    folder, mark = tmp_path / "model", tmp_path / "mark"
    shutil.copytree(folders["vit"], folder)
    config = json.loads((folder / CONFIG).read_text())
    config["model_cfg"]["text_cfg"] |= {"hf_tokenizer_name": "any", "tokenizer_kwargs": {"trust_remote_code": True}}
    (folder / CONFIG).write_text(json.dumps(config))
    code = f"open({str(mark)!r}, 'w').close()\nfrom transformers import PreTrainedTokenizerFast as Evil\n"
    (folder / "evil.py").write_text(code)
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}))
    (folder / "config.json").write_text(json.dumps({"model_type": "evil"}))
    with pytest.raises(ValueError, match="the tokenizer of local-dir:.* could not be loaded.*scorer.name") as caught:
        Clip(f"local-dir:{folder}")
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_errors_name_the_key(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="clip_scorer.name is 'ViT-B32'.*ViT-B-32"):
        Clip("ViT-B32", "openai")
    with pytest.raises(ValueError, match="clip_scorer.pretrained is null, which would freeze ViT-B-32 at random"):
        Clip("ViT-B-32")
    with pytest.raises(ValueError, match="set clip_scorer.name=ViT-B-32-quickgelu"):
        Clip("ViT-B-32", "openai")
    with pytest.raises(ValueError, match="clip_scorer.name is local-dir:nowhere"):
        Clip("local-dir:nowhere")
    with pytest.raises(ValueError, match="clip_scorer.pretrained is .*could not be loaded into ViT-B-32"):
        Clip("ViT-B-32", str(folders["vit"] / WEIGHTS))  # open_clip asserts the width
    clip = Clip(f"local-dir:{folders['vit']}")
    with pytest.raises(ValueError, match="a list of images or texts is needed"):
        clip.text_features([])
    with pytest.raises(ValueError, match="a list of images or texts is needed, not 'one text'"):
        clip.text_features("one text")
