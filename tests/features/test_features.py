"""Stored features against encoding on the fly: the same losses, checkpoints and predictions; mismatches are errors.

The models are small and random, but real: open_clip's ViT and ModifiedResNet, GPT-2.
"""

import io
import json
import shutil
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file

from prefixvlm import cli
from prefixvlm.build import build_data, build_module, make
from prefixvlm.config import encoder_choice
from prefixvlm.data.datamodule import ShardDataModule
from prefixvlm.data.shards.manifest import MANIFEST, read_manifest, verify
from prefixvlm.data.shards.read import read_shard
from prefixvlm.data.shards.write import write_shards
from prefixvlm.encoder.cached import IDENTITY, read_identity
from prefixvlm.encoder.openclip import OpenClipEncoder
from prefixvlm.evaluation.config import evaluation_config
from prefixvlm.features.encode_captions import caption_encoder_for
from prefixvlm.features.write import write_features
from prefixvlm.inference.captioner import Captioner
from prefixvlm.training.checkpoint import KEY
from prefixvlm.training.checkpoint_file import AtomicCheckpointIO
from tests.conftest import MeanEncoder
from tests.test_end_to_end import tiny_gpt2
from tests.training.test_module import trainer_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning"),  # Lightning with torch 2.15
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode"),  # the frozen parts: that is the point
]
TEXT = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
TOWERS = {
    "vit": {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2},
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
}
NUM = {"train": 12, "val": 4, "test": 5}


def clip_folder(folder: Path, tower: str, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    config = {"embed_dim": 24, "vision_cfg": TOWERS[tower], "text_cfg": TEXT}
    folder.mkdir()
    save_file(open_clip.model.CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    return folder


def picture(number: int) -> bytes:
    """Return the bytes of a PNG with a colour and noise of its own."""
    buffer, rng = io.BytesIO(), np.random.default_rng(number)
    noise = rng.integers(0, 256, 3) // 2 + rng.integers(0, 128, (5, 6, 3))
    Image.fromarray(noise.astype(np.uint8)).resize((60, 50)).save(buffer, "PNG")
    return buffer.getvalue()


def samples(split):
    for i in range(NUM[split]):
        content = {
            "captions": [f"caption {i} {j}" for j in range(3)],
            "questions": [{"id": f"{split}{i}", "question": "which is it?", "answers": [str(i)]}],
        }
        number = 1000 * len(split) + i
        yield f"{split}-{i:03d}", {"png": picture(number), "json": json.dumps(content, indent=2).encode()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder with image shards, encoders and a language model."""
    folder = tmp_path_factory.mktemp("features")
    write_shards({split: samples(split) for split in NUM}, folder / "images", "a test", "none", samples_per_shard=5)
    for tower in TOWERS:
        clip_folder(folder / tower, tower)
    clip_folder(folder / "other", "vit", seed=1)
    tiny_gpt2(folder / "gpt2")
    return folder


def node_of(made, tower, **options):
    changes = [f"{key}={value}" for key, value in options.items()]
    return encoder_choice("clip_tiny", [f"model_name=local-dir:{made / tower}", "dtype=float32", *changes])


@pytest.fixture(scope="module")
def stored(made):
    """Return a function stored(tower, **options) that returns the folder of its features, written once."""

    def get(tower, **options):
        out = made / "-".join(["stored", tower, *map(str, options.values())])
        if not out.exists():
            node = node_of(made, tower, **options)
            write_features(make("encoder", node), node, made / "images", out, batch_size=4)
        return out

    return get


def config(made, encoder, shards, **data):
    decoding = {"max_new_tokens": 6}
    return OmegaConf.create({
        "encoder": encoder,
        "mapper": {"_target_": "prefixvlm.mapper.linear.LinearMapper", "output_std": 1.0},
        "lm": {"_target_": "prefixvlm.lm.causal.CausalLM.from_pretrained", "name": str(made / "gpt2"),
               "dtype": "float32"},
        "task": {"captioning": {"_target_": "prefixvlm.task.captioning.Captioning", "decoding": decoding},
                 "vqa": {"_target_": "prefixvlm.task.vqa.Vqa", "decoding": decoding}},
        "module": {"_target_": "prefixvlm.training.module.PrefixModule"},
        "optim": {"_target_": "prefixvlm.training.optim.Optim", "lr": 0.01,
                  "optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True}},
        "data": {"_target_": "prefixvlm.data.datamodule.ShardDataModule", "shards": str(shards),
                 "batch_size": 4, **data},
    })  # fmt: skip


def cached(folder):
    return {"_target_": "prefixvlm.encoder.cached.CachedEncoder", "features_of": str(folder)}


def built(made, encoder, shards, seed=0, **data):
    """Return a module and its data module."""
    cfg = config(made, encoder, shards, **data)
    torch.manual_seed(seed)
    module = build_module(cfg)
    return module, build_data(cfg, module)


def losses_of(module, data, steps=6):
    optimizer = torch.optim.AdamW(module.model.mapper.parameters(), lr=0.01)
    losses = []
    while len(losses) < steps:
        for batch in islice(data.train_dataloader(), steps - len(losses)):
            loss = module.model(batch).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


@pytest.mark.parametrize("features", ["pooled", "patch"])
@pytest.mark.parametrize("tower", TOWERS)
def test_training_from_features_gives_the_losses_of_encoding_on_the_fly(made, stored, tower, features):
    folder = stored(tower, features=features)
    fly = losses_of(*built(made, node_of(made, tower, features=features), made / "images"))
    ours = losses_of(*built(made, cached(folder), folder))
    assert ours == pytest.approx(fly, rel=1e-3)
    other = node_of(made, "other" if tower == "vit" else "vit", features=features)
    others = losses_of(*built(made, other, made / "images"))
    assert others != pytest.approx(fly, rel=1e-3)  # the test can tell encoders apart


def test_feature_shards_are_the_image_shards_with_features_in_the_images_place(made, stored):
    folder, images = stored("vit", features="patch"), made / "images"
    encoder = OpenClipEncoder(f"local-dir:{made / 'vit'}", features="patch", exact_pixels=False)
    verify(folder)
    names = sorted(path.name for path in images.glob("*.tar"))
    assert sorted(path.name for path in folder.glob("*.tar")) == names
    assert len(names) == 3 + 1 + 1
    for name in names:
        for (key, members), (stored_key, stored_members) in zip(
            read_shard(images / name), read_shard(folder / name), strict=True
        ):
            assert stored_key == key
            assert stored_members["json"] == members["json"]
            assert set(stored_members) == {"npy", "json"}
            found = np.load(io.BytesIO(stored_members["npy"]))
            assert found.dtype == np.float16
            expected = encoder(encoder.transform(Image.open(io.BytesIO(members["png"])).convert("RGB"))[None])[0]
            torch.testing.assert_close(torch.from_numpy(found).float(), expected, rtol=1e-3, atol=1e-3)
    manifest = read_manifest(folder)
    assert {split: manifest.num_samples(split) for split in manifest.splits} == NUM
    assert "a test" in manifest.source
    assert not [path for path in made.iterdir() if path.name.startswith(".")]


def test_the_identity_names_encoder_weights_transform_and_widths(made, stored):
    identity = read_identity(str(stored("resnet", features="patch")))
    assert identity.encoder == node_of(made, "resnet", features="patch")
    assert (identity.num_features, identity.feature_width) == (4, 256)
    assert identity.fingerprint != read_identity(str(stored("vit", features="patch"))).fingerprint
    assert identity.transform != read_identity(str(stored("vit", features="patch"))).transform
    pooled = read_identity(str(stored("vit", features="pooled")))
    assert pooled.transform == read_identity(str(stored("vit", features="patch"))).transform


def test_pictures_of_features_are_those_of_the_images_that_they_were_made_of(made, tmp_path, caplog):
    shutil.copytree(made / "images", tmp_path / "old" / "images")
    features = tmp_path / "old" / "features"
    encoder = MeanEncoder()
    write_features(encoder, {}, tmp_path / "old" / "images", features, batch_size=8)
    keys = ["test-001", "test-004"]
    expected = {key: picture(4000 + int(key[-1])) for key in keys}

    def pictures(folder):
        return ShardDataModule(str(folder), cache_dir=str(tmp_path / "cache")).images(keys)

    assert pictures(features) == expected
    mixed = ShardDataModule({"a": {"shards": str(features)}}, cache_dir=str(tmp_path / "cache"))
    assert mixed.images(["a/test-001"]) == {"a/test-001": expected["test-001"]}
    shutil.move(tmp_path / "old", tmp_path / "new")  # both together
    assert pictures(tmp_path / "new" / "features") == expected
    assert not caplog.records
    shutil.move(tmp_path / "new" / "images", tmp_path / "elsewhere")
    assert pictures(tmp_path / "new" / "features") == {}
    (record,) = caplog.records
    assert record.getMessage() == (
        "2 of 2 pictures are not shown: the shards hold none of them; their features were made of those in ../images, "
        "seen from the features"
    )
    # The same command writes where they are now, and encodes nothing again.
    encoder.calls = 0
    write_features(encoder, {}, tmp_path / "elsewhere", tmp_path / "new" / "features")
    assert encoder.calls == 0
    assert pictures(tmp_path / "new" / "features") == expected
    verify(tmp_path / "new" / "features")


def test_each_image_is_encoded_once_and_the_same_image_in_a_batch_too(made, tmp_path):
    encoder = MeanEncoder()
    write_features(encoder, {}, made / "images", tmp_path / "out", batch_size=5)
    assert encoder.calls == sum(NUM.values()) + 1  # and black
    same = [(f"k{i}", {"png": picture(0), "json": b'{"captions": ["x"]}'}) for i in range(8)]
    write_shards({"train": same}, tmp_path / "same", "a test", "none")
    encoder.calls = 0
    write_features(encoder, {}, tmp_path / "same", tmp_path / "same_out", batch_size=8)
    assert encoder.calls == 2


def test_images_of_a_support_are_stored_too_and_a_bad_image_is_left_out(tmp_path):
    support = {"support": [{"image": "0.png", "text": "a dax"}, {"image": "1.png", "text": "a blicket"}]}
    episode = {"png": picture(0), "0.png": picture(1), "1.png": picture(2), "json": json.dumps(support).encode()}
    write_shards({"test": [("good", episode), ("later", {"png": picture(3)})]}, tmp_path / "in", "a test", "none")
    encoder = MeanEncoder()
    write_features(encoder, {}, tmp_path / "in", tmp_path / "out")
    (_, members), _ = read_shard(tmp_path / "out" / "test-000000.tar")
    assert set(members) == {"npy", "0.npy", "1.npy", "json"}
    assert [each["image"] for each in json.loads(members["json"])["support"]] == ["0.npy", "1.npy"]
    found = np.load(io.BytesIO(members["1.npy"]))
    expected = encoder(encoder.transform(Image.open(io.BytesIO(picture(2))))[None])[0].numpy()
    assert np.allclose(found, expected, atol=1e-3)


def test_a_run_that_is_stopped_leaves_nothing_and_goes_on_where_it_was(made, tmp_path):
    class Stopping(MeanEncoder):
        def forward(self, pixel_values):
            if self.calls >= 10:
                raise KeyboardInterrupt
            return super().forward(pixel_values)

    torch.manual_seed(0)
    stopping = Stopping()
    with pytest.raises(KeyboardInterrupt):
        write_features(stopping, {}, made / "images", tmp_path / "out", batch_size=5)
    assert not (tmp_path / "out").exists()
    torch.manual_seed(0)
    encoder = MeanEncoder()
    write_features(encoder, {}, made / "images", tmp_path / "out", batch_size=5)
    assert encoder.calls == sum(NUM.values()) - 10 + 1
    torch.manual_seed(0)
    write_features(MeanEncoder(), {}, made / "images", tmp_path / "whole", batch_size=5)
    files = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == files
    torch.manual_seed(1)  # other weights: nothing of an interrupted run of the former ones may be taken
    with pytest.raises(ValueError, match="does not hold these features; delete it or give another --out"):
        write_features(MeanEncoder(), {}, made / "images", tmp_path / "out", batch_size=5)


def test_captions_are_encoded_by_clip_and_train_in_place_of_images(made, tmp_path, monkeypatch, capsys):
    node = node_of(made, "vit", normalize="true")
    changes = [f"encoder.model_name=local-dir:{made / 'vit'}", "normalize=true", "dtype=float32"]
    out = tmp_path / "out"
    run(monkeypatch, "--texts", "--shards", made / "images", "--encoder", "clip_tiny", *changes, "--out", out)
    assert "out: 36 train samples, each 1 x 24 features" in capsys.readouterr().out
    assert read_manifest(out).source.endswith("of the captions of: a test")
    found = dict(read_shard(out / "train-000000.tar"))
    assert list(found)[:4] == ["train-000-0", "train-000-1", "train-000-2", "train-001-0"]
    assert json.loads(found["train-001-2"]["json"]) == {"captions": ["caption 1 2"]}
    model = open_clip.create_model(f"local-dir:{made / 'vit'}").eval()
    with torch.no_grad():
        text = model.encode_text(open_clip.get_tokenizer(f"local-dir:{made / 'vit'}")(["caption 1 2"]), normalize=True)
    stored_text = np.load(io.BytesIO(found["train-001-2"]["npy"]))
    torch.testing.assert_close(torch.from_numpy(stored_text).float(), text, rtol=1e-3, atol=1e-3)

    assert read_identity(str(out)).encoder == node  # the images' encoder: it takes over where there are images
    cfg = config(made, cached(out), out)
    del cfg.task.vqa
    module = build_module(cfg)
    losses_of(module, build_data(cfg, module), 2)
    checkpoint = checkpoint_of(module, tmp_path / "x.ckpt")
    module, (seen, blind) = evaluated(checkpoint, shards=str(made / "images"))
    assert isinstance(module.model.encoder, OpenClipEncoder)
    assert seen != pytest.approx(blind, rel=1e-3)


def test_a_sample_without_captions_has_no_texts_to_encode(made, tmp_path):
    node = node_of(made, "vit", normalize="true")
    encoder = make("encoder", node)
    some = [("mute", {"png": picture(0)}), ("good", {"png": picture(1), "json": b'{"captions": ["x"]}'})]
    write_shards({"train": some}, tmp_path / "in", "a test", "none")
    manifest = write_features(
        encoder, node, tmp_path / "in", tmp_path / "out", captions=caption_encoder_for(encoder, node)
    )
    assert [key for key, _ in read_shard(tmp_path / "out" / "train-000000.tar")] == ["good-0"]
    assert manifest.splits["train"].left_out == {"mute": "it has no caption"}


def checkpoint_of(module, path):
    checkpoint = {"state_dict": {}, "global_step": 0}
    module.on_save_checkpoint(checkpoint)
    AtomicCheckpointIO().save_checkpoint(checkpoint, path)
    return AtomicCheckpointIO().load_checkpoint(path)


def trained(made, encoder, shards):
    module, data = built(made, encoder, shards, seed=3)
    losses_of(module, data, 2)
    return module


def captions_of(module, data):
    """Return greedy captions. Rounding may flip those of a random model: compare them on the same features only."""
    trainer_of(max_steps=1).test(module, data, verbose=False)
    return [p.prediction for p in module.predictions["captioning"]]


def loss_of(module, data):
    trainer = trainer_of(max_steps=1)
    trainer.validate(module, data, verbose=False)
    return trainer.callback_metrics["val/loss"].item()


@pytest.mark.parametrize("features", ["pooled", "patch"])
def test_checkpoints_are_the_same_whichever_way_they_were_trained(made, stored, tmp_path, features):
    folder, node = stored("vit", features=features), node_of(made, "vit", features=features)
    sources = {"cached": (cached(folder), folder), "fly": (node, made / "images")}
    losses = []
    for name, source in sources.items():
        checkpoint = checkpoint_of(trained(made, *source), tmp_path / f"{name}.ckpt")
        assert checkpoint[KEY]["config"]["encoder"] == node
        for other in sources.values():
            module, data = built(made, *other)
            module.on_load_checkpoint(checkpoint)  # what resuming checks
            module.load_trained(checkpoint)
            losses.append(loss_of(module, data))
        assert type(module.model.encoder) is OpenClipEncoder
        captions = captions_of(module, data)
        assert Captioner(tmp_path / f"{name}.ckpt").caption(image_files(made, tmp_path)) == captions
        assert len(set(captions)) > 1
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-3)


def image_files(made, tmp_path):
    files = []
    for path in sorted((made / "images").glob("test-*.tar")):
        for key, members in read_shard(path):
            files.append(tmp_path / f"{key}.png")
            files[-1].write_bytes(members["png"])
    return files


EVALUATION = {"benchmark": None, "task": None, "shards": None, "split": None, "limit": None, "batch_size": None}


def evaluated(checkpoint, **changes):
    """Build a module as eval.py does. Returns it with its loss and its blind loss."""
    cfg = evaluation_config(EVALUATION | changes, checkpoint[KEY]["config"])
    module = build_module(cfg)
    module.load_trained(checkpoint)
    return module, [loss_of(module, build_data(cfg, module, blind=blind)) for blind in (False, True)]


def test_an_evaluation_reads_images_or_features_whatever_the_checkpoint_was_trained_on(made, stored, tmp_path):
    folder = stored("vit", features="pooled")
    for way in ((cached(folder), folder), (node_of(made, "vit", features="pooled"), made / "images")):
        checkpoint = checkpoint_of(trained(made, *way), tmp_path / "x.ckpt")
        features, from_features = evaluated(checkpoint, shards=str(folder))
        images, from_images = evaluated(checkpoint, shards=str(made / "images"))
        assert isinstance(images.model.encoder, OpenClipEncoder)
        assert features.model.encoder.identity == read_identity(str(folder))
        assert from_features == pytest.approx(from_images, rel=1e-3)
        assert from_images[0] != pytest.approx(from_images[1], rel=1e-4)  # seen and blind
        default, _ = evaluated(checkpoint)
        assert type(default.model.encoder) is type(features.model.encoder if way[1] == folder else images.model.encoder)


@pytest.mark.parametrize("other", [("other", {"features": "pooled"}), ("vit", {"features": "patch"})])
def test_a_checkpoint_refuses_features_of_another_encoder(made, stored, tmp_path, other):
    checkpoint = checkpoint_of(trained(made, node_of(made, "vit", features="pooled"), made / "images"), tmp_path / "x")
    tower, options = other
    with pytest.raises(ValueError, match=r"trained with encoder .* but this encoder is ") as caught:
        evaluated(checkpoint, shards=str(stored(tower, **options)))
    assert "\n" not in str(caught.value)


def test_the_encoder_and_what_the_shards_hold_must_fit(made, stored):
    folder, images = stored("vit", features="pooled"), made / "images"
    with pytest.raises(ValueError, match=r"data\.shards is .*, which holds features, not images; set encoder=cached"):
        built(made, node_of(made, "vit"), folder)
    with pytest.raises(ValueError, match=r"encoder=cached reads features, but data\.shards is .* which holds none"):
        built(made, cached(folder), images)
    with pytest.raises(ValueError, match=r"with features of \w+ \(.*\), but encoder\.features_of holds those of"):
        built(made, cached(folder), stored("other", features="pooled"))
    both = {"a": {"shards": str(folder)}, "b": {"shards": str(images)}}
    cfg = config(made, cached(folder), folder)
    module = build_module(cfg)
    cfg.data.shards = both
    with pytest.raises(ValueError, match=r"holds none"):
        build_data(cfg, module)


def test_features_behind_a_pattern_are_refused_when_they_are_read(made, stored, tmp_path):
    folder = stored("vit", features="pooled")
    for path in folder.glob("*.tar"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    _, data = built(made, node_of(made, "vit"), f"{tmp_path}/{{split}}-*.tar")
    with pytest.raises(ValueError, match=r"hold features and not images; set encoder=cached"):
        next(iter(data.train_dataloader()))


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["prefixvlm", "shards", "features", *map(str, arguments)])
    cli.main()


def test_the_command_writes_features_once(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = f"encoder.model_name=local-dir:{made / 'vit'}"
    arguments = [
        "--shards",
        made / "images",
        "--encoder",
        "clip_tiny",
        model,
        "dtype=float32",
        "features=patch",
        "--out",
        "out",
    ]
    run(monkeypatch, *arguments)
    assert "out: 12 train samples, each 16 x 32 features" in capsys.readouterr().out
    assert read_identity("out").encoder == node_of(made, "vit", features="patch")
    run(monkeypatch, *arguments)
    assert "out holds these features already; nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("encoder", "more", "sentence"),
    [
        (["clip_tine"], [], "there is no encoder 'clip_tine'; did you mean clip_tiny?"),
        (["../encoder/clip_tiny"], [], "there is no encoder '../encoder/clip_tiny'"),
        (["clip_tiny", "encoder.feature=patch"], [], "encoder.feature is not an option of"),
        (["clip_tiny", "patch"], [], "'patch' is not encoder.KEY=VALUE"),
        (["clip_tiny", "MODEL", "trained=true"], [], "the encoder is trained, so its features would change"),
        (["clip_tiny", "MODEL"], ["--texts"], "encoder.features=pooled encoder.normalize=true"),
        (["clip_tiny", "MODEL", "normalize=true", "pretrained=random"], ["--texts"], "encoder.pretrained is random"),
        (["cached"], [], "data.shards"),
        (["cached", "encoder.features_of=FEATURES"], [], "the encoder reads stored features itself"),
        (["clip_tiny", "MODEL"], ["--device", "tpu9"], "--device is tpu9, which is not available"),
        (["clip_tiny", "MODEL"], ["--batch-size", "0"], "batch_size is 0; set --batch-size to 1 or more"),
        (["clip_tiny", "MODEL"], ["--shards", "nowhere"], "--shards is nowhere, which is not a folder of image shards"),
        (["clip_tiny", "MODEL"], ["--shards", "FEATURES"], "which is not a folder of image shards"),
    ],
)
def test_bad_arguments_are_one_sentence(made, stored, tmp_path, monkeypatch, capsys, encoder, more, sentence):
    def real(word):
        known = {"MODEL": f"encoder.model_name=local-dir:{made / 'vit'}"}
        return known.get(word, word.replace("FEATURES", str(stored("vit", features="pooled"))))

    arguments = ["--shards", made / "images", "--out", tmp_path / "out", "--encoder", *map(real, encoder)]
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, *arguments, *map(real, more))
    assert caught.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert sentence in error
    assert "\n" not in error
    assert not (tmp_path / "out").exists()


def test_features_json_is_what_makes_a_folder_one_of_features(stored, tmp_path):
    assert (stored("vit", features="pooled") / IDENTITY).is_file()
    assert read_identity(str(tmp_path)) is None


def test_plain_tars_without_a_manifest_are_encoded_too(made, tmp_path):
    shutil.copytree(made / "images", tmp_path / "plain")
    (tmp_path / "plain" / MANIFEST).unlink()
    encoder = MeanEncoder()
    manifest = write_features(encoder, {}, tmp_path / "plain", tmp_path / "out")
    assert {split: manifest.num_samples(split) for split in manifest.splits} == NUM
    assert write_features(encoder, {}, tmp_path / "plain", tmp_path / "out") == manifest
