"""A folder FOLDER/train/CLASS/IMAGE, or FOLDER/CLASS/IMAGE, goes in, one labelled sample an image comes out.

The splits are the folders train, val and test; without them all is train, and --val-share X makes some of it val. The
label is {"label": CLASS}, for a classification; the key is the image's path in the folder of the split.
"""

from pathlib import Path

from prefixvlm.data.sources import _own
from prefixvlm.data.sources._files import Record, Samples, with_images

SOURCE = "A folder of images, one folder a class"
LICENCE = "one's own"
TERMS = ""
SPLITS = _own.SPLITS
WANTED = {"folder": "DIR: the folder that holds train/, val/, test/ or the classes", "val_share": _own.VAL_SHARE}


def held(folder: Path, val_share: float | None = None) -> list[str]:
    """The splits that there are."""
    return list(_splits(folder, val_share))


def samples(split: str, folder: Path, val_share: float | None = None) -> Samples:
    found = _splits(folder, val_share)[split]
    keys = _own.keys(found)
    records = [Record(keys[name], path, {"labels": {"label": name.split("/")[0]}}) for name, path in found.items()]
    return with_images(records, WANTED["folder"])


def _splits(folder: Path, val_share: float | None) -> dict[str, dict[str, Path]]:
    """By split, the images by their paths in its folder."""
    inside = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    named = [split for split in SPLITS if split in inside]
    if named and (others := set(inside) - set(named)):
        both = f"{', '.join(named)} and also {', '.join(sorted(others))}"
        raise ValueError(f"{folder} holds {both}; give a folder of splits or one of classes")
    found = {split: _images(folder / split) for split in named} if named else {"train": _images(folder)}
    for split, images in found.items():
        if not images:
            raise ValueError(f"{folder} has no {split} images; it must be {WANTED['folder']}, with the images in them")
    return _own.divided(found, val_share)


def _images(folder: Path) -> dict[str, Path]:
    """All files below the classes but hidden ones, also those that no shard can hold: the manifest will say so."""
    paths = sorted(path for path in folder.glob("*/**/*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path for path in paths}
