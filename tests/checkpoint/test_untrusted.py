"""A checkpoint of a stranger: what it holds is data, and its file needs no more memory than its size."""

import io
import math
import os
import shutil
import struct
import zipfile

import pytest
import torch

from prefixvlm.build import rebuild
from prefixvlm.checkpoint.untrusted import MAX_PLAIN, check_archive, check_plain
from prefixvlm.training.checkpoint import KEY
from prefixvlm.training.checkpoint_file import load
from tests.test_end_to_end import ROOT


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A real checkpoint, in the folder that its paths start from."""
    folder = tmp_path / "stranger"
    shutil.copytree(ROOT / "tests" / "old_checkpoints", folder)
    monkeypatch.chdir(folder)
    return load("captioning_vqa.ckpt")


def load_changed(checkpoint, tmp_path):
    torch.save(checkpoint, tmp_path / "changed.ckpt")
    return load(tmp_path / "changed.ckpt")


def archive(compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr("archive/data/0", bytes(2**20))
    return bytearray(buffer.getvalue())


def test_a_compressed_archive_is_refused_before_it_is_inflated(tmp_path, stored):
    plain, packed = tmp_path / "plain.ckpt", tmp_path / "packed.ckpt"
    torch.save(stored | {"more": torch.zeros(2**26, dtype=torch.uint8)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for each in source.infolist():
            file.writestr(each.filename, source.read(each))
    assert load(plain)["global_step"] == stored["global_step"]
    assert packed.stat().st_size < 2**25
    assert torch.load(packed, weights_only=True)["more"].numel() == 2**26  # torch itself inflates it
    with pytest.raises(ValueError, match=r"packed.ckpt is not a checkpoint, or a damaged one \(it is compressed\)"):
        load(packed)


def test_members_that_share_their_bytes_are_refused(tmp_path):
    data = archive()
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    entry = bytes(data[start:end])
    copies = b"".join(entry.replace(b"data/0", b"data/" + bytes([48 + n])) for n in range(10))
    tail = bytearray(data[end:])
    struct.pack_into("<HHI", tail, 8, 10, 10, len(copies))
    (tmp_path / "x").write_bytes(data[:start] + copies + tail)
    with pytest.raises(ValueError, match="overlap"):
        check_archive(tmp_path / "x")


def test_a_flipped_byte_is_found(tmp_path):
    data = archive()
    (tmp_path / "x").write_bytes(data)
    check_archive(tmp_path / "x")
    data[1000] ^= 1
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ValueError, match="wrong checksum of archive/data/0"):
        check_archive(tmp_path / "x")


def test_a_tensor_that_claims_more_values_than_its_file_has_is_an_error(tmp_path, stored):
    torch.save({**stored, "x": torch.zeros(1000, dtype=torch.uint8)}, tmp_path / "x.ckpt")
    with zipfile.ZipFile(tmp_path / "x.ckpt") as source, zipfile.ZipFile(tmp_path / "y.ckpt", "w") as file:
        for each in source.infolist():
            # In the pickle: 1000 as two bytes, M\xe8\x03, becomes 65535.
            file.writestr(each.filename, source.read(each).replace(b"M\xe8\x03", b"M\xff\xff"))
    with pytest.raises(ValueError, match="is not a checkpoint, or a damaged one"):
        load(tmp_path / "y.ckpt")


def endless():
    laughs: list = ["ha"]
    for _ in range(40):
        laughs = [laughs, laughs]
    itself: list = []
    itself.append(itself)
    return {"laughs": laughs, "itself": itself, "text": ["x" * 10**6] * 10**6}


@pytest.mark.parametrize("name", ["laughs", "itself", "text"])
def test_a_small_pickle_that_is_endless_to_walk_is_refused(name, stored, tmp_path):
    with pytest.raises(ValueError, match=f"more than {MAX_PLAIN}|nested more than 100 levels"):
        check_plain(endless()[name])
    stored[KEY]["config"]["task"]["captioning"]["prompt"] = endless()[name]
    with pytest.raises(ValueError, match="is not the checkpoint of a mapper"):
        load_changed(stored, tmp_path)


@pytest.mark.parametrize("value", [{1: 2}, {"a": torch.zeros(2)}, b"x", {1, 2}, 1j, 2**65, [bytearray(3)], os.PathLike])
def test_other_objects_are_no_plain_data(value):
    with pytest.raises(ValueError, match="where plain data is expected"):
        check_plain({"a": [value]})


def test_plain_data_is_plain():
    check_plain({"a": [1, -(2**60), 2.5, math.nan, True, None, "x", ("b", [])], "c": {}})


HOSTILE = [None, 5, "x", [], [1], math.nan, {"a": 1}, {"_target_": 3}, {"_target_": None}, {"captioning": 7}]


@pytest.mark.parametrize(
    "axis", ["encoder", "lm", "mapper", "task", "module", "data", "optim", "tune", "seed", "trainer"]
)
def test_a_damaged_configuration_is_one_sentence(axis, stored, tmp_path):
    for value in HOSTILE:
        config = {**stored[KEY]["config"], axis: value}
        changed = {**stored, KEY: {**stored[KEY], "config": config}}
        try:
            rebuild(load_changed(changed, tmp_path)[KEY]["config"], stored)
        except ValueError as error:
            assert "\n" not in str(error), value  # noqa: PT017


@pytest.mark.parametrize("entry", ["config", "identity", "lineage", "provenance", "cut_texts"])
def test_damaged_entries_are_one_sentence(entry, stored, tmp_path):
    for value in (None, 5, "x", [3], {"a": torch.zeros(1)}):
        changed = {**stored, KEY: {**stored[KEY], entry: value}}
        if not (entry == "cut_texts" and value == 5):
            with pytest.raises(ValueError, match="is not the checkpoint of a mapper that prefixvlm trained"):
                load_changed(changed, tmp_path)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("global_step", "x"), ("state_dict", [1]), ("state_dict", {"a": 3}),
        ("state_dict", {"a": torch.zeros(3).to_sparse()}), ("state_dict", {"a": torch.empty(10**12, device="meta")}),
        (KEY, []), (KEY, {}),
    ],
)  # fmt: skip
def test_other_structures_are_one_sentence(entry, value, stored, tmp_path):
    with pytest.raises(ValueError, match="is not (the checkpoint of a mapper|a checkpoint)"):
        load_changed({**stored, entry: value}, tmp_path)


ATTACKS = {
    "a shell command": {
        "_target_": "lightning.pytorch.cli.instantiate_class",
        "args": [],
        "init": {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "canary"]}},
    },
    "a pickle": {
        "_target_": "prefixvlm.training.module.PrefixModule.load_from_checkpoint",
        "checkpoint_path": "pickle.ckpt",
        "weights_only": False,
    },
    "a file written": {"_target_": "prefixvlm.atomic.write_text", "path": "canary", "text": "x"},
    "a file removed": {
        "_target_": "prefixvlm.training.checkpoint_file.AtomicCheckpointIO.remove_checkpoint",
        "path": "x",
    },
    "a download": {"_target_": "prefixvlm.data.remote.download", "url": "http://127.0.0.1:1/x", "path": "canary"},
    "processes": {"_target_": "prefixvlm.distributed.launch.launch", "count": 2, "logs": "canary"},
    "another axis": {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": "canary"},
    "a partial": {"_target_": "prefixvlm.mapper.mlp.MLPMapper", "_partial_": True},
    "arguments by position": {"_target_": "prefixvlm.mapper.mlp.MLPMapper", "_args_": [1]},
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("axis", ["encoder", "lm", "mapper", "module", "optim", "task.captioning", "tune.lora"])
def test_no_axis_builds_an_attack(attack, axis, stored, tmp_path):
    config = stored[KEY]["config"]
    key, _, name = axis.partition(".")
    config[key] = {**(config.get(key) or {}), name: ATTACKS[attack]} if name else ATTACKS[attack]
    before = sorted(os.listdir())
    with pytest.raises(ValueError, match=rf"^{axis}[._].*(accepted are|is not an option of)"):
        rebuild(load_changed(stored, tmp_path)[KEY]["config"], stored)
    assert sorted(os.listdir()) == before


def test_an_attack_inside_an_option_is_not_built_either(stored, tmp_path):
    stored[KEY]["config"]["mapper"]["num_layers"] = ATTACKS["a file written"]
    with pytest.raises(ValueError, match="mapper.num_layers takes no component|mapper.num_layers is"):
        rebuild(load_changed(stored, tmp_path)[KEY]["config"], stored)


def test_an_interpolation_is_text(stored, tmp_path, monkeypatch):
    monkeypatch.setenv("A_TOKEN", "hf_secret")
    stored[KEY]["config"]["task"]["captioning"]["prompt"] = "${oc.env:A_TOKEN}"
    module = rebuild(load_changed(stored, tmp_path)[KEY]["config"], stored)
    assert module.tasks["captioning"].prompt == "${oc.env:A_TOKEN}"


def test_kernels_of_a_repository_are_not_loaded(stored, tmp_path):
    """transformers takes an attention with a slash for a repository, whose code it runs."""
    stored[KEY]["config"]["lm"]["attention"] = "stranger/kernels"
    with pytest.raises(ValueError, match="lm.attention is 'stranger/kernels'; accepted are sdpa, eager"):
        rebuild(load_changed(stored, tmp_path)[KEY]["config"], stored)
