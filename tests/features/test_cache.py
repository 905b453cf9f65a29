"""data.cache_features: a run that keeps features is, bit by bit, the run that computes them in every epoch."""

import json
import pickle
import re
import shutil

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

from prefixvlm.batch import Row
from prefixvlm.data.feature_store import FeatureStore, KeyedDecoder, KeyedImage
from prefixvlm.data.image import decode_image
from prefixvlm.data.shards.write import write_shards
from prefixvlm.encoder.openclip import OpenClipEncoder
from prefixvlm.features import choose_cache
from prefixvlm.features.cache import FeatureCache
from prefixvlm.training.checkpoint import KEY as CONTENT
from prefixvlm.training.checkpoint_file import load
from tests.conftest import MeanEncoder, collator_of, tiny_model
from tests.features.test_features import built, clip_folder, node_of, picture
from tests.test_end_to_end import run, tiny_gpt2
from tests.training.test_module import trainer_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning"),  # Lightning with torch 2.15
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode"),  # the frozen parts: that is the point
]
NUM = {"train": 14, "val": 5, "test": 3}  # not multiples of the batch of 4
N, D = 3, 5


def sample(number: int, image: bytes):
    content = {"captions": [f"caption {number} {j}" for j in range(3)]}
    content["questions"] = [{"id": f"q{number}", "question": "which is it?", "answers": [str(number)]}]
    return f"s{number:03d}", {"png": image, "json": json.dumps(content).encode()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder with image shards, two encoders and a language model."""
    folder = tmp_path_factory.mktemp("cache")
    shift = {split: 100 * number for number, split in enumerate(NUM)}
    splits = {s: [sample(i + shift[s], picture(i + shift[s])) for i in range(NUM[s])] for s in NUM}
    write_shards(splits, folder / "images", "a test", "none", samples_per_shard=5)
    clip_folder(folder / "vit", "vit")
    clip_folder(folder / "resnet", "resnet")
    tiny_gpt2(folder / "gpt2")
    return folder


class Record(Callback):
    """Keeps the losses, and counts the images that the encoder encodes."""

    def __init__(self):
        self.losses, self.encoded, self.epochs = [], 0, []

    def on_fit_start(self, trainer, module):
        module.model.encoder.register_forward_hook(self.count)

    def count(self, encoder, arguments, features):
        self.encoded += len(features)

    def on_train_batch_end(self, trainer, module, outputs, batch, *args):
        assert len(batch.pixel_values) == 4
        self.losses.append(outputs["loss"].item())

    def on_validation_end(self, trainer, module):
        self.losses.append(trainer.callback_metrics["val/loss"].item())

    def on_train_epoch_end(self, trainer, module):
        self.epochs.append(self.encoded)


def fit(made, folder, features="pooled", tower="vit", epochs=3, resume=None, save=None, **data):
    """Return the losses of a training, its weights, and how many images were encoded up to the end of each epoch."""
    options = {"cache_features": bool(folder), "feature_dir": str(folder), "max_bad_fraction": 0.5, **data}
    module, module_data = built(made, node_of(made, tower, features=features), made / "images", **options)
    record = Record()
    trainer = trainer_of(record, max_epochs=epochs)
    trainer.fit(module, module_data, ckpt_path=resume, weights_only=True)
    if save:
        trainer.save_checkpoint(save)
    weights = {name: value.detach().clone() for name, value in module.model.mapper.state_dict().items()}
    return record.losses, weights, record.epochs


def assert_same(ours, plain):
    assert ours[0] == plain[0]
    assert all(torch.equal(value, ours[1][name]) for name, value in plain[1].items())


@pytest.mark.parametrize(("tower", "features"), [("vit", "pooled"), ("resnet", "patch")])
def test_a_run_with_kept_features_is_the_run_without_to_the_bit(made, tmp_path, capsys, tower, features):
    plain = fit(made, None, features, tower)
    ours = fit(made, tmp_path, features, tower)
    assert_same(ours, plain)
    first, _, third = ours[2]
    assert first < plain[2][0] + 8  # and one batch more, to compare places in it
    assert third - first <= 8 < plain[2][1] - plain[2][0]  # the two images that the first epoch had left out
    assert re.search(r"Features are computed once and kept: [\d.]+ kB for 14 training images", capsys.readouterr().out)
    again = fit(made, tmp_path, features, tower)
    assert_same(again, plain)
    assert again[2] == [0, 0, 0]
    other_batches = fit(made, tmp_path, features, tower, eval_batch_size=2)
    assert other_batches[2][0] > 0  # other kernels may round otherwise


def test_workers_read_what_was_kept(made, tmp_path):
    plain = fit(made, None)
    assert_same(fit(made, tmp_path, num_workers=1), plain)
    assert fit(made, tmp_path, num_workers=1)[2] == [0, 0, 0]


def test_a_resumed_run_goes_on_to_the_same_bits(made, tmp_path):
    folder, path = tmp_path / "features", tmp_path / "one.ckpt"
    fit(made, folder, epochs=1, save=path)
    plain, ours = fit(made, None, resume=path), fit(made, folder, resume=path)
    assert len(ours[0]) == 8
    assert_same(ours, plain)
    assert ours[2][1] <= 8


def test_what_cannot_be_kept_is_refused_or_passed_over(made, tmp_path, capsys, monkeypatch):
    def sentence(**options):
        with pytest.raises(ValueError, match="cache_features is true") as error:
            fit(made, tmp_path, **options)
        return str(error.value)

    assert "data.train_blind=true leaves the images out" in sentence(train_blind=True)
    free = choose_cache.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(choose_cache.shutil, "disk_usage", lambda path: free._replace(free=1000))
    assert re.search(
        r"they would take [\d.]+ kB for 14 training images, where 1 kB are free \(/.*feature_dir", sentence()
    )
    capsys.readouterr()
    monkeypatch.setattr(choose_cache, "MIN_SAVED", 2)
    fit(made, tmp_path, cache_features="auto")
    assert "Features are computed in every epoch, because they would take" in capsys.readouterr().out
    monkeypatch.undo()
    fit(made, tmp_path, cache_features="auto")  # too few images
    assert "Features" not in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_features_of_another_run_are_never_taken(made, tmp_path):
    fit(made, tmp_path, epochs=1)
    fit(made, tmp_path, epochs=1, background="black")
    fit(made, tmp_path, "patch", epochs=1)
    torch.set_num_threads(threads := torch.get_num_threads() + 1)
    try:
        fit(made, tmp_path, epochs=1)
    finally:
        torch.set_num_threads(threads - 1)
    assert len(list(tmp_path.iterdir())) == 4


class Flip:
    def __call__(self, image):
        pixels = MeanEncoder.transform(image)
        return pixels.flip(2) if torch.rand(()) < 0.5 else pixels


def test_random_transforms_and_trained_encoders_are_found(monkeypatch):
    encoder = MeanEncoder()
    assert "not one of prefixvlm's own" in choose_cache._obstacle(encoder, False), "its code may change unseen"
    monkeypatch.setattr(MeanEncoder, "__module__", "prefixvlm.encoder.mean")
    assert not choose_cache._obstacle(encoder, False)
    encoder.trained = True
    assert choose_cache._obstacle(encoder, False) == "the encoder is trained"
    encoder.trained, encoder.transform = False, Flip()
    assert "random" in choose_cache._obstacle(encoder, False)


def store_of(folder):
    return FeatureStore(folder, N, D)


def keys_of(*numbers, batch=4):
    return [bytes([number] * 12) + batch.to_bytes(4, "big") for number in numbers]


def features_of(*numbers):
    return np.stack([np.full((N, D), number, np.float32) / 7 for number in numbers])


def test_a_store_finds_what_any_process_has_written(tmp_path):
    first, second = store_of(tmp_path / "new"), store_of(tmp_path / "new")
    assert first.get(keys_of(1)[0]) is None
    first.add(keys_of(3, 0), features_of(3, 0))
    second.add(keys_of(2), features_of(2))
    first.add(keys_of(255, batch=256), features_of(255))
    late = pickle.loads(pickle.dumps(first))
    for store in (late, store_of(tmp_path / "new")):
        for number in (0, 2, 3):
            np.testing.assert_array_equal(store.get(keys_of(number)[0]), features_of(number)[0])
        assert store.get(keys_of(3, batch=5)[0]) is None
        assert store.has(keys_of(3)[0][:12])
        assert not store.has(keys_of(4)[0][:12])
        np.testing.assert_array_equal(store.get(keys_of(255, batch=256)[0]), features_of(255)[0])
    assert len(late) == 4
    assert late.record_bytes == 4 * N * D + 20


def test_what_a_kill_or_a_disk_damages_is_not_read(tmp_path, caplog):
    store_of(tmp_path).add(keys_of(1, 2, 3), features_of(1, 2, 3))
    (arrays,), (names,) = tmp_path.glob("*.float32"), tmp_path.glob("*.keys")
    data, entries = arrays.read_bytes(), names.read_bytes()
    names.write_bytes(entries[:-1])
    assert [store_of(tmp_path).get(key) is None for key in keys_of(1, 2, 3)] == [False, False, True]
    names.write_bytes(entries)
    arrays.write_bytes(data[:-1])
    assert [store_of(tmp_path).get(key) is None for key in keys_of(1, 2, 3)] == [False, False, True]
    arrays.write_bytes(data[:5] + b"x" + data[6:])
    assert [store_of(tmp_path).get(key) is None for key in keys_of(1, 2, 3)] == [True, False, False]
    assert "damaged" in caplog.text
    arrays.unlink()
    assert store_of(tmp_path).get(keys_of(2)[0]) is None


def test_an_image_with_features_is_not_decoded(tmp_path):
    store, decoded = store_of(tmp_path), []

    def decode(data):
        decoded.append(data)
        return decode_image(data)

    first = KeyedDecoder(decode, store)(picture(1))
    store.add([first.key(4)], features_of(1))
    assert decoded == [picture(1)]
    store = store_of(tmp_path)
    again = KeyedImage(picture(1), decode, store)
    np.testing.assert_array_equal(again.features(4), features_of(1)[0])
    assert decoded == [picture(1)]
    assert again.features(3) is None
    assert again.image.tobytes() == first.image.tobytes()
    with pytest.raises(ValueError, match="does not decode"):
        KeyedImage(b"nothing", decode, store)


def batch_of(images, encoder=None):
    collate = collator_of(tiny_model("gpt2"))
    collate.transform = (encoder or MeanEncoder).transform
    return collate([Row((image, "what?"), " it") for image in images])


class PlacedEncoder(MeanEncoder):
    """Features that depend on the place in the batch, as of a kernel that rounds its last rows otherwise."""

    def forward(self, pixel_values):
        return super().forward(pixel_values) + torch.arange(len(pixel_values))[:, None, None] * 1e-6


@pytest.mark.parametrize("exact", [True, False])
def test_an_encoder_whose_features_depend_on_their_place_is_found(tmp_path, caplog, exact):
    cache = FeatureCache(encoder := PlacedEncoder(), FeatureStore(tmp_path, 1, 8), must_be_exact=exact)
    images = [cache.decoder(decode_image)(picture(number)) for number in range(4)]
    batch = batch_of(images)
    completed = cache.complete(batch)
    assert torch.equal(completed.pixel_values, encoder(batch.pixel_values))
    assert "with its place in the batch" in caplog.text
    assert bool(list(tmp_path.iterdir())) == (not exact)


def test_a_batch_of_stored_and_new_images_is_encoded_as_a_whole(tmp_path, made):
    encoder = OpenClipEncoder(f"local-dir:{made / 'vit'}", features="patch", dtype="float32")
    cache = FeatureCache(encoder, FeatureStore(tmp_path, encoder.num_features, encoder.feature_width), True)
    decode = cache.decoder(decode_image)
    cache.complete(batch_of([decode(picture(number)) for number in (0, 1, 2, 3)], encoder))
    plain = torch.stack([encoder.transform(decode_image(picture(n))) for n in (4, 1, 5, 3)])
    mixed = [decode(picture(number)) for number in (4, 1, 5, 3)]
    batch = batch_of(mixed, encoder)
    assert len(batch.pixel_values) == 2
    assert torch.equal(cache.complete(batch).pixel_values, encoder(plain))
    again = [decode(picture(number)) for number in (5, 4, 0, 2)]
    assert not len(batch_of(again, encoder).pixel_values)
    black = decode_image(picture(9))
    batch = cache.complete(batch_of([*again[:3], black], encoder))
    assert torch.equal(batch.pixel_values[3], encoder(encoder.transform(black)[None].expand(4, -1, -1, -1))[3])
    assert len(cache.store) == 6  # a plain image has no key


def test_no_more_is_kept_than_the_limit(tmp_path, caplog):
    cache = FeatureCache(MeanEncoder(), FeatureStore(tmp_path, 1, 8), must_be_exact=True, limit=7)
    for num_images in (4, 3, 2):  # the same images in batches of other sizes have other keys
        cache.complete(batch_of([cache.decoder(decode_image)(picture(number)) for number in range(num_images)]))
    assert len(cache.store) == 7
    assert [cache.store.count(num_images) for num_images in (4, 3, 2)] == [4, 3, 0]
    assert caplog.text.count("too many different numbers of images") == 1


def test_damaged_features_give_way_to_those_that_were_computed_again(tmp_path, caplog):
    store_of(tmp_path).add(keys_of(1, 2), features_of(1, 2))
    (data,) = tmp_path.glob("*.float32")
    data.write_bytes(b"\1" + data.read_bytes()[1:])
    assert store_of(tmp_path).get(*keys_of(1)) is None
    assert "damaged" in caplog.text
    store_of(tmp_path).add(keys_of(1), features_of(1))
    assert np.array_equal(store_of(tmp_path).get(*keys_of(1)), features_of(1)[0])


def test_a_folder_that_is_removed_meanwhile_is_a_miss(tmp_path):
    store = store_of(tmp_path / "x")
    assert not store.has(*keys_of(1))
    store.add(keys_of(1), features_of(1))
    assert store.get(*keys_of(1)) is not None
    shutil.rmtree(tmp_path / "x")
    assert store.get(*keys_of(1)) is None


def test_a_full_disk_ends_the_keeping_and_not_the_run(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = FeatureCache(MeanEncoder(), FeatureStore(tmp_path / "file" / "x", 1, 8), True)
    for _ in range(2):
        batch = cache.complete(batch_of([cache.decoder(decode_image)(picture(number)) for number in range(4)]))
        assert batch.pixel_values.shape == (4, 1, 8)
    assert caplog.text.count("no more features are kept") == 1


def test_train_py_keeps_features_and_its_checkpoint_reads_images(made, tmp_path):
    options = [
        f"data.shards={made / 'images'}", f"encoder.model_name=local-dir:{made / 'vit'}", "encoder.dtype=float32",
        "lm=gpt2", f"lm.name={made / 'gpt2'}", "lm.dtype=float32", "mapper=linear", "mapper.prefix_length=2",
        "task=captioning", "task.captioning.decoding.max_new_tokens=4", "data.batch_size=4", "logger=csv",
        "trainer.max_epochs=3", "trainer.accelerator=cpu", f"data.feature_dir={tmp_path}/features",
    ]  # fmt: skip
    plain, ours = tmp_path / "plain", tmp_path / "ours"
    run("train.py", *options, f"hydra.run.dir={plain}", "data.cache_features=false")
    out = run("train.py", *options, f"hydra.run.dir={ours}", "data.cache_features=true").stdout
    assert out.count("Features are computed once and kept") == 1
    first, second = (load(folder / "checkpoints" / "last.ckpt") for folder in (plain, ours))
    assert first[CONTENT]["identity"] == second[CONTENT]["identity"]
    assert all(torch.equal(value, second["state_dict"][name]) for name, value in first["state_dict"].items())
    run("eval.py", f"ckpt={ours}/checkpoints/last.ckpt", f"out={tmp_path}/eval", "blind=false")
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert metrics["tasks"]["captioning"]["num_images"] == NUM["test"]
    error = run("train.py", *options, "data.cache_features=yes", f"hydra.run.dir={tmp_path}/x", code=2).stderr
    assert "data.cache_features is 'yes'" in error
