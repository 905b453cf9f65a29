"""A folder FOLDER/train/CLASS/IMAGE, or FOLDER/CLASS/IMAGE, goes in, one labelled sample an image comes out.

The splits are the folders train, val and test; without them all is train, and --val-share X and --test-share Y make
some of it val and test. The label is {"label": CLASS}, for a classification; the key is the image's path in the folder
of the split. What lies in no folder of a class is left out, with the reason in the manifest.
"""

from pathlib import Path

from prefixvlm.data.sources import _own
from prefixvlm.data.sources._files import Record, Samples, with_images

SOURCE = "A folder of images, one folder a class"
LICENCE = "one's own"
TERMS = ""
LOOSE = "it lies in no folder of a class"
SPLITS = _own.SPLITS
WANTED = {
    "folder": "DIR: the folder that holds train/, val/, test/ or the classes",
    "val_share": _own.VAL_SHARE,
    "test_share": _own.TEST_SHARE,
}


def held(folder: Path, val_share: float | None = None, test_share: float | None = None) -> list[str]:
    """The splits that there are."""
    return list(_splits(folder, val_share, test_share))


def samples(split: str, folder: Path, val_share: float | None = None, test_share: float | None = None) -> Samples:
    splits = _splits(folder, val_share, test_share)
    keys = _own.keys(splits)[split]
    records = [
        Record(keys[name], path, {"labels": {"label": name.split("/")[0]}}, "" if "/" in name else LOOSE)
        for name, path in splits[split].items()
    ]
    return with_images(records, WANTED["folder"])


def _splits(folder: Path, val_share: float | None, test_share: float | None) -> dict[str, dict[str, Path]]:
    """By split, the images by their paths in its folder."""
    inside = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    named = [split for split in SPLITS if split in inside]
    if named and (others := set(inside) - set(named)):
        both = f"{', '.join(named)} and also {', '.join(sorted(others))}"
        raise ValueError(f"{folder} holds {both}; give a folder of splits or one of classes")
    found = {split: _files(folder / split, "**/*") for split in named} if named else {"train": _files(folder, "**/*")}
    for split, files in found.items():
        if not any("/" in name for name in files):
            raise ValueError(f"{folder} has no {split} images; it must be {WANTED['folder']}, with the images in them")
    loose = _files(folder, "*") if named else {}
    found[next(iter(found))] |= {name: path for name, path in loose.items() if name not in found[next(iter(found))]}
    return _own.divided(found, val_share, test_share)


def _files(folder: Path, pattern: str) -> dict[str, Path]:
    """All files but hidden ones, also those that no shard can hold: the manifest will say so."""
    paths = sorted(path for path in folder.glob(pattern) if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path for path in paths}
