"""Checkpoint files: written atomically, read without running code, and checked against the model."""

import errno
import os
import pickle
import resource
from contextlib import contextmanager

import pytest
import torch

from prefixvlm.training.checkpoint import KEY, check_identity, check_tensors
from prefixvlm.training.checkpoint_file import AtomicCheckpointIO, load


def checkpoint_of(seed=0, size=1000):
    torch.manual_seed(seed)
    axes: dict = {axis: {} for axis in ("encoder", "lm", "mapper", "module", "data", "trainer", "task")}
    ours = {"config": {"seed": seed, "names": ["a", None], **axes}, "identity": {"lm": "f00d"}}
    return {"state_dict": {"model.mapper.weight": torch.randn(size)}, "global_step": seed, KEY: ours}


@contextmanager
def files_of_at_most(size):
    """Limit the size of files, to imitate a full disk. Python ignores the signal that comes with the error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_saved_checkpoint_is_read_back(tmp_path):
    path, saved = tmp_path / "deep" / "er" / "x.ckpt", checkpoint_of(3)
    io = AtomicCheckpointIO()
    io.save_checkpoint(saved, path)
    for read in (load(path), load(str(path)), io.load_checkpoint(path)):
        assert torch.equal(read["state_dict"].pop("model.mapper.weight"), saved["state_dict"]["model.mapper.weight"])
        assert read == {**saved, "state_dict": {}}
    assert os.listdir(path.parent) == ["x.ckpt"]
    io.remove_checkpoint(path)
    io.remove_checkpoint(path)
    assert not path.exists()


def test_a_failed_write_leaves_the_former_file_whole(tmp_path):
    path, io = tmp_path / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint(checkpoint_of(1), path)
    before = path.read_bytes()
    with files_of_at_most(2000), pytest.raises(OSError) as caught:  # noqa: PT011
        io.save_checkpoint(checkpoint_of(2), path)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["last.ckpt"]
    io.save_checkpoint(checkpoint_of(2), path)
    assert load(path)["global_step"] == 2


def test_a_failed_first_write_leaves_nothing(tmp_path):
    with files_of_at_most(2000), pytest.raises(OSError):  # noqa: PT011
        AtomicCheckpointIO().save_checkpoint(checkpoint_of(), tmp_path / "last.ckpt")
    assert os.listdir(tmp_path) == []


def test_an_object_that_does_not_pickle_leaves_the_former_file_whole(tmp_path):
    path, io = tmp_path / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint(checkpoint_of(1), path)
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        io.save_checkpoint({**checkpoint_of(2), "x": lambda: None}, path)
    assert load(path)["global_step"] == 1
    assert os.listdir(tmp_path) == ["last.ckpt"]


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.7, 0.99])
def test_a_truncated_file_is_one_sentence(tmp_path, share):
    path = tmp_path / "x.ckpt"
    AtomicCheckpointIO().save_checkpoint(checkpoint_of(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    refused(path)


@pytest.mark.parametrize(
    "data", [b"not a checkpoint", b"\x80\x02.", bytes(1000), "ä\n".encode() * 99, b"PK\x03\x04" * 9]
)
def test_foreign_bytes_are_one_sentence(tmp_path, data):
    path = tmp_path / "x.ckpt"
    path.write_bytes(data)
    refused(path)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": {}},
        [1, 2],
        torch.zeros(3),
        {KEY: None},
        {KEY: "identity"},
        {KEY: {"config": {}}},  # of the contrastive module, which is another's encoder
    ],
    ids=repr,
)
def test_a_checkpoint_of_another_program_is_one_sentence(tmp_path, content):
    path = tmp_path / "x.ckpt"
    torch.save(content, path)
    refused(path)


def test_an_absent_file_or_a_folder_is_one_sentence(tmp_path):
    refused(tmp_path / "absent.ckpt")
    refused(tmp_path)


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_code_in_a_checkpoint_does_not_run(tmp_path, how):
    path, touched = tmp_path / "x.ckpt", tmp_path / "touched"
    content = {**checkpoint_of(), "code": Touch(touched)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    refused(path)
    with pytest.raises((ValueError, pickle.UnpicklingError)):
        AtomicCheckpointIO().load_checkpoint(path, weights_only=False)
    assert not touched.exists()
    if how == "zip":  # the file would have done it
        torch.load(path, weights_only=False)
        assert touched.exists()


def refused(path):
    with pytest.raises(ValueError, match=r".") as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tensors_must_be_the_same_by_name_and_shape():
    ours = {"mapper.weight": torch.zeros(2, 3), "mapper.bias": torch.zeros(2)}
    check_tensors(ours, {name: tensor + 1 for name, tensor in ours.items()})
    for stored, words in (
        ({"mapper.weight": torch.zeros(2, 3)}, ["lacks ['mapper.bias (2,)'] and has nothing"]),
        ({**ours, "mapper.gate": torch.zeros(4)}, ["lacks nothing and has ['mapper.gate (4,)']"]),
        ({**ours, "mapper.weight": torch.zeros(3, 2)}, ["mapper.weight (2, 3)", "mapper.weight (3, 2)"]),
        ({}, ["mapper.bias", "mapper.weight"]),
    ):
        with pytest.raises(ValueError, match="does not fit the model") as caught:
            check_tensors(ours, stored)
        for word in words:
            assert word in str(caught.value)


def test_frozen_parts_must_be_those_of_the_training():
    check_identity({"encoder": "e1", "lm": "l1"}, {"encoder": "e1", "lm": "l1"})
    for ours in ({"encoder": "e1", "lm": "l2"}, {"encoder": "e1"}):
        with pytest.raises(ValueError, match=rf"trained with lm l1 but this lm is {ours.get('lm')}"):
            check_identity(ours, {"encoder": "e1", "lm": "l1"})
    with pytest.raises(ValueError, match="trained with encoder e1 but this encoder is e2"):
        check_identity({"encoder": "e2", "lm": "l1"}, {"encoder": "e1", "lm": "l1"})
