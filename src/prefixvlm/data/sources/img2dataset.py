"""CC3M, CC12M, LAION and others as downloaded by img2dataset: its tars become the shards.

Nothing is copied: the folder of shards has links to the tars (NNNNN.tar with KEY.jpg, KEY.txt, KEY.json) and a
manifest. Damaged tars, and tars with another number of samples than in NNNNN_stats.json, are left out.
"""

from pathlib import Path

SOURCE = "Images and captions downloaded with img2dataset (https://github.com/rom1504/img2dataset)"
LICENCE = "of the images their owners'; of the list of URLs see where it comes from"
TERMS = ""
SPLITS = ("train", "val", "test")
ARGUMENTS = {
    "folder": "DIR: the output_folder of img2dataset with output_format=webdataset; its .parquet files are not used",
    "val_tars": "N: the last N tars are val; without it and --test-tars, all are train",
    "test_tars": "N: the N tars before these are test",
}


def available_splits(folder: Path, val_tars: int | None = None, test_tars: int | None = None) -> list[str]:
    """Return the splits that the data has."""
    for name, number in (("--val-tars", val_tars), ("--test-tars", test_tars)):
        if number is not None and number < 0:
            raise ValueError(f"the number of tars is {number}; set {name} to 0 or more")
    return ["train", *(["val"] if val_tars else []), *(["test"] if test_tars else [])]


def tars(split: str, folder: Path, val_tars: int | None = None, test_tars: int | None = None) -> list[Path]:
    # Copies from macOS have a file ._NAME beside each NAME.
    paths = sorted(path for path in folder.glob("*.tar") if path.is_file() and not path.name.startswith("."))
    val = len(paths) - (val_tars or 0)
    test = val - (test_tars or 0)
    if test <= 0:
        raise ValueError(
            f"{folder} holds {len(paths)} tars, of which {val_tars or 0} are val and {test_tars or 0} test; it must be "
            f"{ARGUMENTS['folder']}"
        )
    return {"train": paths[:test], "test": paths[test:val], "val": paths[val:]}[split]
