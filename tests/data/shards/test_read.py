"""Reading of whole and damaged tars, and resolving of folders and patterns."""

import gzip
import itertools
import json
import random
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from webdataset.tariterators import base_plus_ext, group_by_keys, tar_file_expander

from prefixvlm.data.shards.manifest import MANIFEST, read_manifest, verify
from prefixvlm.data.shards.read import count_samples, read_shard, split_name
from prefixvlm.data.shards.resolve import resolve_shards
from tests.data.conftest import png, write_tar

GOOD = [("a.png", png()), ("a.txt", b"A"), ("b.png", png()), ("b.txt", b"B"), ("dir/c.PNG", png())]


def test_names_are_split_as_webdataset_splits_them() -> None:
    names = ["".join(letters) for length in range(7) for letters in itertools.product("ab./\n", repeat=length)]
    assert [split_name(name) for name in names] == [tuple(part or "" for part in base_plus_ext(name)) for name in names]
    assert split_name("a.b/c.0.jpg") == ("a.b/c", "0.jpg")


@pytest.mark.parametrize(
    "module", ["tar_writer", "link_tars", "verification.verify"]
)  # what processes that work on shards import
def test_neither_torch_nor_webdataset_is_imported(module: str) -> None:
    imports = f"import sys, prefixvlm.data.shards.{module}, prefixvlm.command_line.subcommands"
    code = f"{imports}; print({{'torch', 'webdataset'}} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def fails(path: Path, reason: str) -> None:
    with pytest.raises(ValueError, match=r"^shard .*x\.tar") as error:
        list(read_shard(path))
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_samples_come_in_their_order(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", GOOD)
    assert [(key, sorted(members)) for key, members in read_shard(path)] == [
        ("a", ["png", "txt"]), ("b", ["png", "txt"]), ("dir/c", ["png"])
    ]  # fmt: skip
    assert [key for key, _ in read_shard(path, numbers={1})] == ["b"]
    assert count_samples(path) == 3


def test_webdataset_reads_our_shards_as_we_do(make_shards) -> None:
    path = make_shards(train=5) / "train-000000.tar"
    with path.open("rb") as stream:
        files = tar_file_expander([{"url": "", "stream": stream}])
        pairs = [(s["__key__"], {"png": s["png"], "json": s["json"]}) for s in group_by_keys(files)]
    assert pairs == list(read_shard(path))


def test_every_cut_is_found(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", GOOD).read_bytes()
    end = len(whole.rstrip(b"\0"))
    for cut in [1, 100, 511, 512, 513, *range(1024, end, 512), *range(1000, end, 700)]:
        (tmp_path / "x.tar").write_bytes(whole[:cut])
        fails(tmp_path / "x.tar", "cut short")


def test_damaged_headers_raise_value_error_only(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", GOOD).read_bytes()
    path, rng = tmp_path / "x.tar", random.Random(0)
    for header in (0, 1024, 2048, 3072):
        path.write_bytes(whole[:header] + b"\xff" * 512 + whole[header + 512 :])
        fails(path, "damaged")
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(5):
            damaged[rng.randrange(len(GOOD) * 1024)] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            list(read_shard(path))
        except ValueError as error:
            assert str(error).startswith(f"shard {path}")  # noqa: PT017


def test_a_well_formed_tar_with_fewer_samples_is_found_by_the_manifest(make_shards) -> None:
    folder = make_shards(train=5)
    path = folder / "train-000000.tar"
    members = [(f"{key}.{ext}", data) for key, both in read_shard(path) for ext, data in both.items()]
    write_tar(path, members[:-2])
    with pytest.raises(ValueError, match=r"holds 4 samples, but manifest.json says 5"):
        list(read_shard(path))


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([*GOOD, ("a.json", b"{}")], "sample a comes twice or its members are not neighbours"),
        ([("a.png", b""), ("a.PNG", b"")], "two members .png"),
        ([("a.png", b""), ("a.pickle", b"")], "'a.pickle' is not KEY.EXTENSION with one of jpg, jpeg, png, webp"),
        ([("a.png", b""), ("a.json.gz", b"")], "'a.json.gz' is not KEY.EXTENSION"),
        ([("a", b"")], "is not KEY.EXTENSION"),
        ([("../a.png", b"")], "the key '../a' leaves its folder"),
        ([("/etc/a.png", b"")], "the key '/etc/a' leaves its folder"),
        ([("a\nb.png", b"")], "unprintable"),
    ],
)
def test_foreign_and_scattered_members(tmp_path: Path, members: list[tuple[str, bytes]], reason: str) -> None:
    fails(write_tar(tmp_path / "x.tar", members), reason)


def test_links_huge_members_and_compressed_tars(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as file:
        link = tarfile.TarInfo("a.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    fails(path, "a.txt is not a plain file")
    huge = tarfile.TarInfo("a.txt")
    huge.size = 2**40
    path.write_bytes(huge.tobuf() + bytes(1024))
    fails(path, "at most")
    path.write_bytes(gzip.compress(write_tar(tmp_path / "plain.tar", GOOD).read_bytes()))
    fails(path, "not an uncompressed tar")


def test_resolve_a_folder(make_shards) -> None:
    folder = make_shards(train=12, val=3)
    assert [path.name for path in resolve_shards(str(folder), "train")] == [f"train-00000{n}.tar" for n in range(3)]
    with pytest.raises(ValueError, match="holds no test samples, only train, val; make them again .* test=false"):
        resolve_shards(str(folder), "test")
    (folder / "train-000001.tar").unlink()
    with pytest.raises(ValueError, match=r"no shard .*train-000001.tar for the train split; correct data.shards"):
        resolve_shards(str(folder), "train")
    (folder / MANIFEST).unlink()
    assert len(resolve_shards(str(folder), "train")) == 2
    with pytest.raises(ValueError, match=r"no shard .*test-\*.tar"):
        resolve_shards(str(folder), "test")


def test_resolve_a_pattern(make_shards) -> None:
    folder = make_shards(train=12, val=3)
    assert len(resolve_shards(f"{folder}/{{split}}-*.tar", "train")) == 3
    assert len(resolve_shards(f"{folder}/{{split}}-{{000000..000001}}.tar", "train")) == 2
    with pytest.raises(ValueError, match=r"no shard .*train-000003.tar"):
        resolve_shards(f"{folder}/{{split}}-{{000000..000003}}.tar", "train")
    with pytest.raises(ValueError, match=r"has no \{split\} in it"):
        resolve_shards(f"{folder}/train-*.tar", "train")
    with pytest.raises(ValueError, match=r"data.shards=nowhere does not exist; .*`prefixvlm shards easy-vqa"):
        resolve_shards("nowhere", "train")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"totals": 1, "splits": {"train": {"shards": [{}]}}}'])
def test_a_file_that_is_not_a_manifest(make_shards, content: str) -> None:
    folder = make_shards(train=2)
    (folder / MANIFEST).write_text(content)
    with pytest.raises(ValueError, match=r"manifest.json is not a manifest of shards .*; make the shards again"):
        resolve_shards(str(folder), "train")


def test_a_manifest_names_files_of_its_own_folder_only(make_shards) -> None:
    folder = make_shards(train=2)
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text().replace("train-000000", "../train-000000"))
    with pytest.raises(
        ValueError, match="the name of a shard is '../train-000000.tar', which is not that of a file in the folder"
    ):
        read_manifest(folder)


def test_verify(make_shards) -> None:
    folder = make_shards(train=2)
    verify(folder)
    data = bytearray((folder / "train-000000.tar").read_bytes())
    data[600] ^= 1
    (folder / "train-000000.tar").write_bytes(data)
    with pytest.raises(ValueError, match=r"train-000000.tar is not what manifest.json says"):
        verify(folder)
    (folder / "train-000000.tar").unlink()
    with pytest.raises(ValueError, match=r"train-000000.tar is missing"):
        verify(folder)


GOOD_SHARD = {"name": "train-000000.tar", "samples": 2, "bytes": 10240, "sha256": "0" * 64}


def hostile_manifest(shards: object, **more: object) -> str:
    content = {"totals": {}, "source": "a test", "licence": "none", "samples_per_shard": 5}
    return json.dumps(content | {"splits": {"train": {"shards": shards}}} | more)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        *((hostile_manifest([GOOD_SHARD | change]), reason) for change, reason in (
            ({"samples": -5}, "Expected `int` >= 0 - at `splits[...].shards[0].samples`"),
            ({"samples": 10**12}, "Expected `int` <= 1000000000 - at `splits[...].shards[0].samples`"),
            ({"samples": 10**30}, "Expected `int` <= 1000000000 - at `splits[...].shards[0].samples`"),
            ({"samples": 10**400}, "a number has 401 digits"),
            ({"samples": 10**9}, "the 1000000000 samples of train-000000.tar do not fit in its 10240 bytes"),
            ({"samples": float("nan")}, "got `float` - at `splits[...].shards[0].samples`"),
            ({"samples": float("inf")}, "got `float` - at `splits[...].shards[0].samples`"),
            ({"samples": "2"}, "got `str` - at `splits[...].shards[0].samples`"),
            ({"samples": True}, "got `bool` - at `splits[...].shards[0].samples`"),
            ({"bytes": -1}, "Expected `int` >= 0 - at `splits[...].shards[0].bytes`"),
            ({"bytes": 2**63}, "at `splits[...].shards[0].bytes`"),
            ({"sha256": None}, "got `null` - at `splits[...].shards[0].sha256`"),
            ({"text_lengths": [3, -1]}, "Expected `int` >= 0 - at `splits[...].shards[0].text_lengths[1]`"),
            ({"name": ["a"]}, "got `array` - at `splits[...].shards[0].name`"),
            *(({"name": name}, "the name of a shard is") for name in (
                "", ".", "..", "../a.tar", "/etc/passwd", "a/b.tar", "http://host/a.tar", "file:a.tar", "a\\b.tar",
                "a.tar?x", "a\0.tar", "a\n.tar", "\ud800.tar", "a" * 300,
            )),
        )),
        (hostile_manifest([GOOD_SHARD, GOOD_SHARD]), "it has the shard train-000000.tar twice"),
        (hostile_manifest({}), "Expected `array`, got `object` - at `splits[...].shards`"),
        (hostile_manifest([3]), "Expected `object`, got `int` - at `splits[...].shards[0]`"),
        (hostile_manifest([], samples_per_shard=-1), "at `samples_per_shard`"),
        (hostile_manifest([], source=3), "at `source`"),
        (hostile_manifest([], splits=[]), "at `splits`"),
        ("[" * 10**5, "nested more than 100 levels"),
        ('{"options": ' * 200 + "1" + "}" * 200, "nested more than 100 levels"),
    ],
)  # fmt: skip
def test_a_hostile_manifest_is_one_sentence_with_the_file_and_the_field(
    tmp_path: Path, content: str, reason: str
) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(
        ValueError, match=r"manifest.json is not a manifest of shards \(.*; make the shards ag"
    ) as error:
        resolve_shards(str(tmp_path), "train")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_a_manifest_that_is_large_or_not_utf8(tmp_path: Path) -> None:
    with (tmp_path / MANIFEST).open("wb") as file:
        file.truncate(2**30)  # sparse
    with pytest.raises(ValueError, match="it has more than 268435456 bytes"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST).write_bytes(hostile_manifest([]).encode("utf-16"))
    with pytest.raises(ValueError, match="'utf-8' codec"):
        read_manifest(tmp_path)


def test_hidden_members_are_passed_over_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As tar on macOS adds them: ./._a.png beside ./a.png."""
    hidden = ["./._a.png", "__MACOSX/._a.png", "__MACOSX/a.png", ".DS_Store", "x/.ipynb_checkpoints/a.png"]
    members = [*((name, b"metadata") for name in hidden), ("./a.png", png()), ("./._a.txt", b"x"), ("./a.txt", b"A")]
    for number in range(2):
        path = write_tar(tmp_path / f"train-{number}.tar", members)
        assert [(key, list(found)) for key, found in read_shard(path)] == [("./a", ["png", "txt"])]
        assert count_samples(path) == 1
    (record,) = caplog.records
    assert record.getMessage().startswith("shard train-0.tar: hidden members, as ./._a.png, are passed over")


@pytest.mark.parametrize("name", ["README", "./README", "docs/README.md", "a.cls", "v1.0.0000.jpg"])
def test_a_member_that_is_not_accepted_is_named_as_in_the_tar(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"x.tar: member '{name}' is not KEY.EXTENSION with one of"):
        list(read_shard(write_tar(tmp_path / "x.tar", [*GOOD, (name, b"")])))
