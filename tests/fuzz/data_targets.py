"""Readers of data: shards, manifests, members, and the tables and annotations that shards are made of."""

import csv
import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import safetensors.numpy
from PIL import Image

from prefixvlm.data import sources
from prefixvlm.data.feature_codec import decode_npy, decode_safetensors, encode_npy
from prefixvlm.data.loading.eval_loader import EvalLoader
from prefixvlm.data.loading.mixture import find_sources
from prefixvlm.data.loading.shard_source import ShardRef, ShardSource
from prefixvlm.data.sample import Sample, decode
from prefixvlm.data.shard_cache import ShardCache
from prefixvlm.data.shards.manifest import MANIFEST, Manifest, Shard, Split, read_manifest, verify
from prefixvlm.data.shards.resolve import all_shards
from prefixvlm.data.shards.write import write_shards
from tests.data.conftest import encoded, png, write_tar

FEATURES = np.linspace(-3, 3, 12, dtype=np.float16).reshape(3, 4)
Files = dict[str, bytes]


@dataclass(frozen=True)
class Target:
    """A reader of files.

    make: writes what stays whole into a folder, and returns the files that will be damaged, one at a time. read: reads
    the folder in which that file is damaged; returns the number of bad samples or parts that it counted, and raises
    AssertionError for another value than that which a checksum is of.
    """

    make: Callable[[Path], Files]
    read: Callable[[Path, str], int]


def _one_tar(tmp: Path) -> bytes:
    """Six samples: each kind of image, with a txt or a json."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 12, 12, 3), np.uint8)
    members = []
    for number, kind in enumerate(("jpg", "png", "webp") * 2):
        image = encoded(Image.fromarray(pixels[number]), {"jpg": "JPEG"}.get(kind, kind.upper()))
        text = json.dumps({"captions": [f"number {number}"], "labels": {"kind": kind}}).encode()
        caption = (f"s{number}.json", text) if number % 2 else (f"s{number}.txt", b"a caption")
        members += [(f"s{number}.{kind}", image), caption]
    return write_tar(tmp / "train-000000.tar", members).read_bytes()


def _manifest(data: bytes) -> bytes:
    shard = Shard("train-000000.tar", 6, len(data), hashlib.sha256(data).hexdigest(), [9] * 6)
    manifest = Manifest("a test", "none", 6, {"train": Split([shard], {"x": "its image is missing"})})
    return manifest.to_json().encode()


def _make_shards(folder: Path) -> Files:
    data = _one_tar(folder)
    (folder / MANIFEST).write_bytes(_manifest(data))
    return {"train-000000.tar": data}


def _fields(samples: list[Sample], rng: Random) -> list[tuple[str, object]]:
    return [(sample.key, (sample.check().captions, sample.picture.tobytes())) for sample in samples]


def _load(paths: Iterable[ShardRef]) -> tuple[dict[str, object], int]:
    loader = EvalLoader([ShardSource(list(paths))], 2, _fields, max_bad_fraction=1)
    seen = [pair for batch in loader for pair in batch]
    assert len(dict(seen)) == len(seen), "a sample comes twice"
    return dict(seen), len(loader.bad_samples)


@cache
def _whole() -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        _one_tar(Path(folder))
        return _load([ShardRef(Path(folder) / "train-000000.tar")])[0]


def _read_shards(folder: Path, file: str) -> int:
    seen, skipped = _load([ShardRef(folder / "train-000000.tar")])
    assert len(seen) + skipped == 6, "samples are lost silently"
    if any(_whole().get(key) != value for key, value in seen.items()):
        # A reader cannot notice changed bytes of an image or a text that still decode; the checksum does.
        try:
            verify(folder)
        except ValueError:
            return skipped
        raise AssertionError("changed samples, and `verify` accepts them")
    return skipped


def _make_manifest(folder: Path) -> Files:
    return {MANIFEST: _manifest(_one_tar(folder))}


def _read_manifest(folder: Path, file: str) -> int:
    read_manifest(folder, check_totals=True)
    all_shards(folder)
    for source in find_sources(str(folder), "train", ShardCache()):
        seen, skipped = _load(source.shards)
        assert len(seen) + skipped == 6, "samples are lost silently"
    verify(folder)
    return 0


def _make_features(_: Path) -> Files:
    return {"x.npy": encode_npy(FEATURES), "x.safetensors": safetensors.numpy.save({"features": FEATURES})}


def _read_features(folder: Path, file: str) -> int:
    data = (folder / file).read_bytes()
    if file == "x.safetensors":  # has no checksum
        return 0 * decode_safetensors(data).size
    array = decode_npy(data)
    assert array.dtype == np.float16, "another type, with a checksum"
    assert np.array_equal(array, FEATURES), "other values, with a checksum"
    return 0


SAMPLE: dict[str, Any] = {
    "captions": ["a dog", "two dogs"],
    "questions": [{"id": "7", "question": "what?", "answers": ["dog"], "choices": ["dog"], "groups": {"a": "b"}}],
    "labels": {"shape": "circle"}, "groups": {"domain": "near"}, "label_sets": {"seen": ["circle", "red"]},
    "support": [{"image": "0.png", "text": "a dax"}], "values": {"area": 0.2},
    "boxes": [{"label": "circle", "box": [0.1, 0.2, 0.3, 0.4]}],
    "tagged": [{"words": ["a", "dog"], "tags": ["O", "B-ANIMAL"]}],
}  # fmt: skip


def _read_sample(folder: Path, file: str) -> int:
    members = {"png": png(), "0.png": png(1), "json": (folder / "s.json").read_bytes()}
    decode("s", members | {"txt": (folder / "s.txt").read_bytes()}, "shard x.tar").check()
    return 0


def _make_sample(_: Path) -> Files:
    return {"s.json": json.dumps(SAMPLE).encode(), "s.txt": b"a caption"}


def _written(name: str, folder: Path, **arguments: Any) -> int:
    """Write the shards of a data set, read them, and return how many samples were left out."""
    source, out = sources.load(name), folder / "out"
    try:
        chosen = sources.splits(source, arguments)
        write_shards({split: source.samples(split, **arguments) for split in chosen}, out, "a test", "none")
        for split in chosen:
            _, skipped = _load(shard for each in find_sources(str(out), split, ShardCache()) for shard in each.shards)
            assert not skipped, "samples that were written do not decode"
        manifest = read_manifest(out, check_totals=True)
        assert manifest is not None
        return sum(len(split.left_out) for split in manifest.splits.values())
    finally:
        for path in folder.glob("*out*"):
            shutil.rmtree(path)


def _images(folder: Path, *names: str) -> None:
    for name in names:
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / name).write_bytes(encoded(Image.new("RGB", (4, 4)), "JPEG"))


ROWS = [
    {"image": "a.jpg", "caption": "a dog|two dogs", "question": "what, exactly?", "answer": "dog", "split": "train"},
    {"image": "x/b.jpg", "caption": "a cat", "question": "who?", "answer": "cat|a cat", "split": "val", "id": "7"},
    {"image": "c.jpg", "caption": 'a "red" ball', "label": "ball", "split": ""},
]
COLUMNS = ("image", "caption", "question", "answer", "split", "id", "label")


def _make_tables(folder: Path) -> Files:
    _images(folder, "a.jpg", "x/b.jpg", "c.jpg")
    files = {"table.jsonl": "\n".join(map(json.dumps, ROWS)).encode()}
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)
        files[f"table{suffix}"] = text.getvalue().encode()
    return files


def _read_tables(folder: Path, file: str) -> int:
    return _written("table", folder, table=folder / file, images=folder / "images")


def _make_coco(folder: Path) -> Files:
    names = [f"COCO_val2014_00000000000{number}.jpg" for number in range(3)]
    _images(folder, *(f"val2014/{name}" for name in names))
    own = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "annotations": [{"id": 9, "image_id": number % 3, "caption": f"caption {number}"} for number in range(5)],
    }
    karpathy = [
        {"filepath": "val2014", "filename": name, "split": split, "cocoid": number, "sentences": [{"raw": "a dog"}] * 2}
        for number, (name, split) in enumerate(zip(names, ("restval", "val", "test"), strict=True))
    ]
    return {"captions.json": json.dumps(own).encode(), "karpathy.json": json.dumps({"images": karpathy}).encode()}


def _read_coco(folder: Path, file: str) -> int:
    if file == "karpathy.json":
        return _written("coco", folder, images=folder / "images", annotations=folder / file)
    return _written("coco-captions", folder, images=folder / "images", val_annotations=folder / file)


def _make_vqa(folder: Path) -> Files:
    _images(folder, *(f"val2014/COCO_val2014_00000000000{number}.jpg" for number in range(2)), "v.jpg")
    questions = [{"image_id": number % 2, "question": "what?", "question_id": number} for number in range(3)]
    answers = [{"answer": "dog" if number else "", "answer_id": number + 1} for number in range(10)]
    annotations = [{"question_id": number, "answers": answers, "answer_type": "other"} for number in range(3)]
    vizwiz = [{"image": "v.jpg", "question": "what?", "answers": answers, "answer_type": "other", "answerable": 1}]
    return {
        "questions.json": json.dumps({"data_subtype": "val2014", "questions": questions}).encode(),
        "annotations.json": json.dumps({"data_subtype": "val2014", "annotations": annotations}).encode(),
        "vizwiz.json": json.dumps(vizwiz).encode(),
    }


def _read_vqa(folder: Path, file: str) -> int:
    if file == "vizwiz.json":
        return _written("vizwiz", folder, images=folder / "images", val_annotations=folder / file)
    files = {"val_questions": folder / "questions.json", "val_annotations": folder / "annotations.json"}
    return _written("vqav2", folder, images=folder / "images", **files)


TARGETS = {
    "shards": Target(_make_shards, _read_shards),
    "manifest": Target(_make_manifest, _read_manifest),
    "features": Target(_make_features, _read_features),
    "sample": Target(_make_sample, _read_sample),
    "tables": Target(_make_tables, _read_tables),
    "coco": Target(_make_coco, _read_coco),
    "vqa": Target(_make_vqa, _read_vqa),
}
