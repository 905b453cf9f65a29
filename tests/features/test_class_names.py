"""Classes as features: each with its name, and photographs of it have features like it."""

import io
import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from prefixvlm.build import make
from prefixvlm.config import encoder_choice
from prefixvlm.data.shards.manifest import read_manifest
from prefixvlm.data.shards.read import read_shard
from prefixvlm.encoder import packaged
from prefixvlm.encoder.timm import TimmEncoder
from prefixvlm.features.class_names import caption_of, write_class_names
from tests.encoder.test_packaged import needs_packages
from tests.test_end_to_end import run, tiny_gpt2

pytestmark = needs_packages
CLASSES = "encoder.features=classes"


def features_of(folder, split="train"):
    found = dict(read_shard(folder / f"{split}-000000.tar"))
    rows = np.stack([np.load(io.BytesIO(members["npy"]))[0] for members in found.values()]).astype(np.float32)
    return torch.from_numpy(rows), [json.loads(members["json"])["captions"] for members in found.values()]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    node = encoder_choice("efficientnet_lite0_classes", [])
    encoder = make("encoder", node)
    folder = tmp_path_factory.mktemp("classes") / "names"
    return encoder, node, folder, write_class_names(encoder, node, folder)


def test_each_class_has_its_name_and_is_the_likeliest_of_its_features(written, capsys):
    encoder, node, folder, manifest = written
    assert manifest == read_manifest(folder)
    assert {split: manifest.num_samples(split) for split in manifest.splits} == {"train": 1000, "val": 100}
    features, names = features_of(folder)
    assert features.shape == (1000, 1000)
    torch.testing.assert_close(features.sum(1), torch.ones(1000), atol=0.01, rtol=0)  # probabilities in float16
    assert features.argmax(1).equal(torch.arange(1000))
    assert 0.3 < features.amax(1).mean() < 0.9
    assert names[281] == ["a tabby"]  # ImageNet's published number of the class
    assert names[967] == ["an espresso"]
    # A dog is more like another dog than like a cup.
    assert features[207, 208] > features[207, 968]  # golden retriever, Labrador retriever, cup
    val_features, val_names = features_of(folder, "val")
    assert torch.equal(val_features, features[::10])
    assert val_names == names[::10]
    write_class_names(encoder, node, folder)
    assert "nothing to do" in capsys.readouterr().out


@torch.no_grad()
def test_features_of_photographs_are_the_probabilities_of_timms_own_model(written):
    encoder, _, folder, _ = written
    _, names = features_of(folder)
    overlay = {"file": str(packaged.packaged_weights("tf_efficientnet_lite0"))}
    model = timm.create_model("tf_efficientnet_lite0", pretrained=True, pretrained_cfg_overlay=overlay).eval()
    samples = packaged.package_folder("skimage") / "data"
    for photo, accepted in {"chelsea.png": ("a tabby", "a tiger cat"), "coffee.png": ("an espresso",)}.items():
        pixels = encoder.transform(Image.open(samples / photo))[None]
        found = encoder(pixels)[0, 0]
        torch.testing.assert_close(found, model(pixels)[0].softmax(0))
        assert set(names[int(found.argmax())]) & set(accepted)


def test_captions_have_their_article():
    assert caption_of("tench, Tinca tinca") == "a tench"
    assert caption_of("American egret, Egretta albus") == "an American egret"


@pytest.mark.parametrize("changes", [[], [CLASSES, "encoder.normalize=true"]])
def test_features_that_are_no_probabilities_are_refused(changes, tmp_path):
    node = encoder_choice("efficientnet_lite0", changes)
    with pytest.raises(ValueError, match=r"and encoder\.features=classes"):
        write_class_names(make("encoder", node), node, tmp_path / "out")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{"pretrained": "random"}, {"trained": True}])
def test_classes_of_random_or_changing_weights_are_refused(options):
    with pytest.raises(ValueError, match=r"encoder\.features is classes, which only frozen and pretrained"):
        TimmEncoder("tf_efficientnet_lite0", features="classes", **options)


def test_the_command_and_a_run_on_its_features(written, tmp_path):
    _, _, folder, _ = written
    wrong = ["features", "--class-names", "--texts", "--encoder", "efficientnet_lite0", "--out", str(tmp_path / "a")]
    assert "give one of the two" in run("-m", "prefixvlm.cli", "shards", *wrong, code=2).stderr
    small = [
        "lm=gpt2",
        f"lm.name={tiny_gpt2(tmp_path / 'lm')}",
        "lm.dtype=float32",
        "lm.start_token='<eos>'",
        "data.limit_val_predictions=2",
    ]
    short = ["trainer.max_steps=2", "logger=csv", f"hydra.run.dir={tmp_path / 'run'}"]
    run("train.py", "experiment=class_names", "encoder=cached", f"data.shards={folder}", *small, *short)
    photo = packaged.package_folder("skimage") / "data" / "chelsea.png"
    said = run("-m", "prefixvlm.cli", "predict", str(photo), "--ckpt", str(tmp_path / "run/checkpoints/last.ckpt"))
    assert said.stdout.strip()
