"""Flickr8k and Flickr30k by their own files: one sample for each image.

The captions are Flickr8k.token.txt, results_20130124.token or results.csv. The lists name the images of a split, one
per line, with or without .jpg. The key is the file name of the image without its extension.
"""

import re
from collections import defaultdict
from pathlib import Path

from prefixvlm.data.sources import _karpathy
from prefixvlm.data.sources._files import Record, Samples, captioned, path_inside, required, samples_of

SOURCE = "Flickr8k or Flickr30k, by their own files"
LICENCE = "non-commercial research and education; see https://shannon.cs.illinois.edu/DenotationGraph/"
TERMS = _karpathy.FLICKR_TERMS
SPLITS = ("train", "val", "test")
_LISTS = "Flickr_8k.{}Images.txt: its images, in Flickr8k_text.zip (or {}.txt of Flickr30k Entities, "
_ENTITIES = "https://github.com/BryanPlummer/flickr30k_entities)"
ARGUMENTS = {
    "tokens": "Flickr8k.token.txt: in Flickr8k_text.zip (or results_20130124.token or results.csv of Flickr30k)",
    "images": "DIR: the folder of the images, Flicker8k_Dataset or flickr30k-images",
    "train_list": _LISTS.format("train", "train") + _ENTITIES,
    "val_list": _LISTS.format("dev", "val") + _ENTITIES,
    "test_list": _LISTS.format("test", "test") + _ENTITIES,
}
_TOKEN = re.compile(r"(?P<image>[^\t#]+)#\d+\t(?P<text>.*)")
_CSV = re.compile(r"(?P<image>[^|]+)\|\s*\d+\s*\|?(?P<text>.*)")  # one line of the published file lacks its second |
_HEADER = "image_name| comment_number| comment"


def samples(
    split: str,
    tokens: Path,
    images: Path,
    train_list: Path | None = None,
    val_list: Path | None = None,
    test_list: Path | None = None,
) -> Samples:
    path = required({"train": train_list, "val": val_list, "test": test_list}[split], f"{split}_list", ARGUMENTS)
    captions = _captions(tokens)
    records: list[Record] = []
    for name in dict.fromkeys(_lines(path)):
        stem = name.removesuffix(".jpg")
        problem = "" if stem in captions else f"it has no captions in {tokens.name}"
        records += captioned(stem, path_inside(images, f"{stem}.jpg"), captions.get(stem, []), {}, problem)
    return samples_of(records, ARGUMENTS["images"])


def _captions(path: Path) -> dict[str, list[str]]:
    """Return the captions by the name of the image without its extension, in the order of the file."""
    lines = _lines(path)
    pattern = _CSV if lines and lines[0] == _HEADER else _TOKEN
    captions: dict[str, list[str]] = defaultdict(list)
    for line in lines[1:] if pattern is _CSV else lines:
        match = pattern.fullmatch(line)
        if match is None:
            raise ValueError(
                f"{path}: {line!r:.80} is not IMAGE#NUMBER, a tab and a caption; it must be {ARGUMENTS['tokens']}"
            )
        captions[match["image"].strip().removesuffix(".jpg")].append(match["text"].strip())
    return captions


def _lines(path: Path) -> list[str]:
    """Return the lines that are not empty."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error})") from error
