"""`prefixvlm describe`: published numbers of trained parameters, without network or weights."""

import json
import socket
import sys
from itertools import islice
from pathlib import Path

import pytest
from PIL import Image

from prefixvlm import cli
from prefixvlm.build import build_module, make, plain
from prefixvlm.command_line import subcommands
from prefixvlm.config import compose_run
from prefixvlm.data.shards.write import write_shards
from prefixvlm.data.sources import easy_vqa
from prefixvlm.describe import describe
from prefixvlm.features.write import write_features
from prefixvlm.model.trained_state import count_parameters
from tests.test_end_to_end import SIZES, tiny_clip, tiny_gpt2

RECIPES = [path.stem for path in sorted((Path(__file__).parents[1] / "conf" / "experiment").glob("*.yaml"))]
PUBLISHED = {  # millions
    "clipcap_transformer": 43,
    "clipcap_mlp_tuned": 156,
    "clipcap_transformer_tuned": 167,
    "clipcap_mlp": 32,
    "frozen": 40,
    "frozen_blind": 40,
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def connect(*arguments):
        raise AssertionError("describe asks no network")

    monkeypatch.setattr(socket.socket, "connect", connect)


def printed(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["prefixvlm", "describe", *arguments])
    subcommands._main()
    return capsys.readouterr().out


@pytest.mark.parametrize(("recipe", "millions"), PUBLISHED.items())
def test_trained_parameters_are_the_published_numbers(recipe, millions, monkeypatch, capsys):
    found = json.loads(printed(monkeypatch, capsys, f"experiment={recipe}", "--json"))
    assert round(found["trained_parameters"] / 1e6) == millions


def test_frozen_trains_its_encoder_and_one_layer():
    parts = describe(compose_run(["experiment=frozen"]))["parts"]
    assert round(parts["encoder"]["trained"] / 1e6, 1) == 23.5
    assert parts["mapper"]["trained"] == (2048 + 1) * 2 * 4096
    assert parts["lm"]["trained"] == parts["encoder"]["frozen"] == 0


@pytest.mark.parametrize(
    "recipe", [name for name in RECIPES if name not in ("frozen_small", "openmoji_zh")]
)  # which begin with a small CLIP that another command makes
def test_every_recipe_is_described(recipe, monkeypatch, capsys):
    text = printed(monkeypatch, capsys, f"experiment={recipe}")
    assert "total" in text
    assert "learning rate" in text


@pytest.mark.parametrize(
    ("encoder", "features"),
    [
        (["encoder=clip_rn50x16"], [144, 3072]),
        (["encoder=beit_l16"], [196, 1024]),
        (["encoder=nf_resnet50", "encoder.features=pooled"], [1, 2048]),
        (["encoder=clip_rn50x16", "encoder.pretrained=random"], [144, 3072]),
    ],
)
def test_limber_has_four_encoders(encoder, features):
    parts = describe(compose_run(["experiment=limber_linear", *encoder]))["parts"]
    assert [parts["encoder"][key] for key in ("num_features", "feature_width")] == features
    assert parts["mapper"] == {
        "trained": (features[1] + 1) * 4096, "frozen": 0, "prefix_length": features[0], "width": 4096
    }  # fmt: skip


def test_the_description_fits_the_built_module(tmp_path):
    """Small parts that exist have the same shapes and sizes on the meta device as with weights."""
    cfg = compose_run(
        [
            f"encoder.model_name=local-dir:{tiny_clip(tmp_path / 'clip')}",
            "encoder.trained=true",
            "encoder.features=patch",
            "mapper=resampler",
            "mapper.num_heads=4",
            "lm=gpt2",
            f"lm.name={tiny_gpt2(tmp_path / 'gpt2')}",
            "lm.dtype=float32",
            "tune=last_blocks",
            "tune.last_blocks.n=1",
            "optim.encoder_lr=1e-4",
            "trainer.accumulate_grad_batches=3",
        ]
    )
    found = describe(cfg)
    module = build_module(cfg)
    model = module.model
    assert (found["trained_parameters"], found["frozen_parameters"]) == count_parameters(module)
    for name, part in found["parts"].items():
        assert (part["trained"], part["frozen"]) == count_parameters(model.get_submodule(name))
    assert found["parts"]["lm"]["trained"]
    assert found["parts"]["lm"]["frozen"]
    pixel_values = model.encoder.transform(Image.new("RGB", (90, 70)))[None]
    encoder, mapper, lm = (found["parts"][name] for name in ("encoder", "mapper", "lm"))
    assert encoder["image_size"] == list(pixel_values.shape[2:])
    features = model.encoder(pixel_values)
    assert features.shape[1:] == (encoder["num_features"], encoder["feature_width"])
    assert encoder["grid"] == [2, 2]
    assert model.mapper(features).shape[1:] == (mapper["prefix_length"], mapper["width"])
    assert (lm["layers"], lm["width"], lm["vocabulary"]) == (2, 32, 257)
    how = found["optimisation"]
    optimizer = module.optim.build(module.named_parameters(), 10)["optimizer"]
    assert how["optimizer"] == type(optimizer).__name__ == "AdamW"
    assert how["lr"] == {group["name"]: group["initial_lr"] for group in optimizer.param_groups}
    assert how["lr"]["encoder"] == 1e-4
    assert how["weight_decay"]["mapper_no_decay"] == 0
    assert (how["schedule"], how["warmup_steps"]) == ("cosine", 0.05)
    assert (how["batch_size"], how["accumulate_grad_batches"], how["precision"]) == (32, 3, "32-true")


def test_stored_features_have_no_image_size(tmp_path):
    samples = {split: list(islice(easy_vqa.samples(split), 2)) for split in SIZES}
    write_shards(samples, tmp_path / "shards", "easy-VQA", "none")
    node = plain(compose_run([f"encoder.model_name=local-dir:{tiny_clip(tmp_path / 'clip')}"]).encoder)
    write_features(make("encoder", node), node, tmp_path / "shards", tmp_path / "features", 2, "cpu")
    found = describe(compose_run(["encoder=cached", f"data.shards={tmp_path}/features"]))
    assert found["parts"]["encoder"] == {
        "trained": 0, "frozen": 0, "image_size": None, "num_features": 1, "feature_width": 16, "grid": None
    }  # fmt: skip


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("mapper.prefix_lenght=3", "mapper.prefix_lenght"),
        ("experiment=frozn", "frozn"),
        ("mapper=nothing", "nothing"),
        ("encoder.trained=maybe", "encoder.trained is 'maybe'"),
    ],
)
def test_an_error_is_one_sentence_and_exit_code_2(override, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prefixvlm", "describe", override])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
