"""A classifier's rows as features: the right row with the right name, and near to photographs of the class."""

import io
import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.layers import BatchNormAct2d

from prefixvlm.build import make
from prefixvlm.config import encoder_choice
from prefixvlm.data.shards.manifest import read_manifest
from prefixvlm.data.shards.read import read_shard
from prefixvlm.encoder import packaged
from prefixvlm.encoder.classifier import classifier_of, mean_after
from prefixvlm.features.class_names import captions, write_class_names
from tests.encoder.test_packaged import needs_packages
from tests.test_end_to_end import run, tiny_gpt2

pytestmark = needs_packages


def features_of(folder, split="train"):
    found = dict(read_shard(folder / f"{split}-000000.tar"))
    rows = np.stack([np.load(io.BytesIO(members["npy"]))[0] for members in found.values()]).astype(np.float32)
    return torch.from_numpy(rows), [json.loads(members["json"])["captions"] for members in found.values()]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    node = encoder_choice("efficientnet_lite0", [])
    encoder = make("encoder", node)
    folder = tmp_path_factory.mktemp("classes") / "names"
    return encoder, node, folder, write_class_names(encoder, node, folder)


def test_each_class_has_its_row_and_its_names(written, capsys):
    encoder, node, folder, manifest = written
    assert manifest == read_manifest(folder)
    assert {split: manifest.num_samples(split) for split in manifest.splits} == {"train": 1000, "val": 100}
    rows, names = features_of(folder)
    # Another way to the same weights: timm's own model, with its classifier.
    overlay = {"file": str(packaged.packaged_weights("tf_efficientnet_lite0"))}
    model = timm.create_model("tf_efficientnet_lite0", pretrained=True, pretrained_cfg_overlay=overlay)
    expected = model.classifier.weight.detach()
    mean = classifier_of("tf_efficientnet_lite0", "package").mean
    expected = mean + mean.norm() * expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(rows, expected, atol=2e-3, rtol=0)  # float16
    assert names[281] == ["a tabby", "a tabby cat"]  # ImageNet's published number of the class
    assert names[967] == ["an espresso"]
    val_rows, val_names = features_of(folder, "val")
    assert torch.equal(val_rows, rows[::10])
    assert val_names == names[::10]
    write_class_names(encoder, node, folder)
    assert "nothing to do" in capsys.readouterr().out


@torch.no_grad()
def test_a_photograph_is_nearest_to_the_row_of_what_is_on_it(written):
    encoder, _, folder, _ = written
    rows, names = features_of(folder)
    mean = classifier_of("tf_efficientnet_lite0", "package").mean
    samples = packaged.package_folder("skimage") / "data"
    for photo, accepted in {"chelsea.png": ("a tabby", "a tiger cat"), "coffee.png": ("an espresso",)}.items():
        image = encoder(encoder.transform(Image.open(samples / photo))[None])[0, 0]
        assert set(names[int(torch.cosine_similarity(rows - mean, image - mean).argmax())]) & set(accepted)


@torch.no_grad()
def test_the_mean_after_a_batch_norm_is_that_of_many_inputs():
    torch.manual_seed(0)
    norm = BatchNormAct2d(5, act_layer=torch.nn.ReLU6).train()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias, std=2)
    inputs = 3 + 7 * torch.randn(64, 5, 40, 40)  # whose mean and deviation the batch norm removes
    torch.testing.assert_close(mean_after(norm), norm(inputs).mean((0, 2, 3)), atol=0.01, rtol=0)


def test_captions_have_their_article():
    assert captions("tench, Tinca tinca") == ["a tench", "a Tinca tinca"]
    assert captions("American egret, Egretta albus") == ["an American egret", "an Egretta albus"]


@pytest.mark.parametrize(
    ("choice", "changes"),
    [("efficientnet_lite0", ["encoder.normalize=true"]), ("efficientnet_lite0", ["encoder.features=patch"])],
)
def test_features_that_no_row_compares_with_are_refused(choice, changes, tmp_path):
    node = encoder_choice(choice, changes)
    with pytest.raises(ValueError, match=r"set --encoder to one of these and encoder\.features=pooled"):
        write_class_names(make("encoder", node), node, tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_a_random_classifier_is_refused(tmp_path):
    node = encoder_choice("efficientnet_lite0", ["encoder.pretrained=random"])
    with pytest.raises(ValueError, match="no class has a meaning"):
        write_class_names(make("encoder", node), node, tmp_path / "out")


def test_the_command_and_a_run_on_its_features(written, tmp_path):
    _, _, folder, _ = written
    wrong = ["features", "--class-names", "--texts", "--encoder", "efficientnet_lite0", "--out", str(tmp_path / "a")]
    assert "give one of the two" in run("-m", "prefixvlm.cli", "shards", *wrong, code=2).stderr
    small = ["lm=gpt2", f"lm.name={tiny_gpt2(tmp_path / 'lm')}", "lm.dtype=float32", "data.limit_val_predictions=2"]
    short = ["trainer.max_steps=2", "logger=csv", f"hydra.run.dir={tmp_path / 'run'}"]
    run("train.py", "experiment=class_names", f"data.shards={folder}", *small, *short)
    photo = packaged.package_folder("skimage") / "data" / "chelsea.png"
    said = run("-m", "prefixvlm.cli", "predict", str(photo), "--ckpt", str(tmp_path / "run/checkpoints/last.ckpt"))
    assert said.stdout.strip()
