"""Files and folders are replaced whole or not at all."""

import os
import resource
import signal
from contextlib import contextmanager

import pytest

from prefixvlm.atomic import link_or_copy, replacing_file, replacing_folder, write_text, write_texts


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    write_text(tmp_path / "deep" / "a.txt", "one")
    write_text(tmp_path / "deep" / "a.txt", "two")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.txt"]
    assert (tmp_path / "deep" / "a.txt").read_text() == "two"


def test_an_error_leaves_the_former_file(tmp_path):
    write_text(tmp_path / "a.txt", "one")

    def fail_halfway():
        with replacing_file(tmp_path / "a.txt") as file:
            file.write(b"half")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail_halfway()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["one"]


def test_an_error_of_the_disk_names_the_requested_file(tmp_path):
    with pytest.raises(OSError, match=r"a\.txt") as raised, replacing_file(tmp_path / "a.txt"):
        raise OSError(28, "No space left on device")
    assert raised.value.filename == str(tmp_path / "a.txt")
    assert not list(tmp_path.iterdir())


def test_a_folder_is_replaced_with_the_permissions_of_its_parent(tmp_path):
    tmp_path.chmod(0o755)
    for text in ("one", "two"):
        with replacing_folder(tmp_path / "out") as folder:
            (folder / text).write_text(text)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["two"]
    assert os.stat(tmp_path / "out").st_mode & 0o777 == 0o755


def test_an_error_leaves_the_former_folder(tmp_path):
    with replacing_folder(tmp_path / "out") as folder:
        (folder / "one").touch()
    with pytest.raises(ValueError, match="stop"), replacing_folder(tmp_path / "out") as folder:
        raise ValueError("stop")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "one"]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_link_or_a_copy_replaces_a_file(tmp_path, monkeypatch, has_links):
    def fail(*args):
        raise OSError(1, "Operation not permitted")

    if not has_links:
        monkeypatch.setattr("pathlib.Path.hardlink_to", fail)
    write_text(tmp_path / "new", "new")
    write_text(tmp_path / "other", "old")
    link_or_copy(tmp_path / "new", tmp_path / "other")
    assert (tmp_path / "other").read_text() == "new"
    assert (tmp_path / "other").samefile(tmp_path / "new") == has_links
    assert len(list(tmp_path.iterdir())) == 2


@contextmanager
def full_disk(limit):
    """Let no file grow beyond a size, as on a full disk: a write raises OSError."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("large", ["a", "b", "c"])
def test_several_files_are_replaced_or_none_of_them(tmp_path, large):
    paths = {name: tmp_path / name for name in "abc"}
    write_texts(dict.fromkeys(paths.values(), "one"))
    texts = {path: "two" * (100_000 if name == large else 1) for name, path in paths.items()}
    with full_disk(10_000), pytest.raises(OSError, match=rf"File too large: '{paths[large]}'"):
        write_texts(texts)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys("abc", "one")
    write_texts(texts)
    assert {path: path.read_text() for path in tmp_path.iterdir()} == texts
