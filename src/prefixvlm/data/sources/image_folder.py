"""A folder of images by class, FOLDER/train/CLASS/IMAGE or FOLDER/CLASS/IMAGE: one labelled sample for each image.

The splits are the folders train, val and test. Without them all images are train, and --val-share X and --test-share Y
make some of them val and test. The label is {"label": CLASS}; the key is the path of the image in the folder of the
split. Files outside of a class folder are left out, with the reason in the manifest; hidden files, and all files of
hidden folders, are passed over.
"""

from pathlib import Path

from prefixvlm.data.sources import _own
from prefixvlm.data.sources._files import Record, Samples, samples_of

SOURCE = "A folder of images, one folder a class"
LICENCE = "one's own"
TERMS = ""
LOOSE = "it lies in no folder of a class"
SPLITS = _own.SPLITS
ARGUMENTS = {
    "folder": "DIR: the folder that holds train/, val/, test/ or the classes",
    "val_share": _own.VAL_SHARE,
    "test_share": _own.TEST_SHARE,
}


def available_splits(folder: Path, val_share: float | None = None, test_share: float | None = None) -> list[str]:
    """Return the splits that the data has."""
    if hidden := [path for path in folder.glob("**/*") if _is_hidden(path, folder) and path.is_file()]:
        print(f"{len(hidden)} hidden files are passed over, as {hidden[0].relative_to(folder)}.")
    return list(_splits(folder, val_share, test_share))


def samples(split: str, folder: Path, val_share: float | None = None, test_share: float | None = None) -> Samples:
    splits = _splits(folder, val_share, test_share)
    keys = _own.unique_keys(splits)[split]
    records = [
        Record(keys[name], path, {"labels": {"label": name.split("/")[0]}}, "" if "/" in name else LOOSE)
        for name, path in splits[split].items()
    ]
    return samples_of(records, ARGUMENTS["folder"])


def _splits(folder: Path, val_share: float | None, test_share: float | None) -> dict[str, dict[str, Path]]:
    """Return by split the paths of the images by their names in its folder."""
    folders = sorted(path.name for path in folder.iterdir() if path.is_dir() and not _is_hidden(path, folder))
    named = [split for split in SPLITS if split in folders]
    if named and (others := set(folders) - set(named)):
        both = f"{', '.join(named)} and also {', '.join(sorted(others))}"
        raise ValueError(f"{folder} holds {both}; give a folder of splits or one of classes")
    splits = {split: _files(folder / split, "**/*") for split in named} if named else {"train": _files(folder, "**/*")}
    for split, files in splits.items():
        if not any("/" in name for name in files):
            raise ValueError(
                f"{folder} has no {split} images; it must be {ARGUMENTS['folder']}, with the images in them"
            )
    loose = _files(folder, "*") if named else {}
    first = next(iter(splits))
    splits[first] = {**splits[first], **{name: path for name, path in loose.items() if name not in splits[first]}}
    return _own.split_by_name(splits, val_share, test_share)


def _files(folder: Path, pattern: str) -> dict[str, Path]:
    """Return all files except hidden ones. Those that are not images are left out later, with a reason."""
    paths = sorted(path for path in folder.glob(pattern) if path.is_file() and not _is_hidden(path, folder))
    return {path.relative_to(folder).as_posix(): path for path in paths}


def _is_hidden(path: Path, folder: Path) -> bool:
    """Return whether a file is hidden, or in a hidden folder, as .ipynb_checkpoints of Jupyter and __MACOSX of zips."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(folder).parts)
