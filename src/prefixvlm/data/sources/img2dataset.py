"""CC3M, CC12M, LAION and others as img2dataset leaves them: a folder of its tars goes in; they are used as they are.

Nothing is copied: the folder of shards holds links to the tars (NNNNN.tar with KEY.jpg, KEY.txt, KEY.json) and a
manifest. Tars that are damaged, or hold another number of samples than their NNNNN_stats.json says, are left out.
"""

from pathlib import Path

SOURCE = "Images and captions downloaded with img2dataset (https://github.com/rom1504/img2dataset)"
LICENCE = "of the images their owners'; of the list of URLs see where it comes from"
TERMS = ""
SPLITS = ("train", "val", "test")
WANTED = {
    "folder": "DIR: the output_folder of img2dataset with output_format=webdataset; its .parquet files are not used",
    "val_tars": "N: the last N tars are val; without it and --test-tars, all are train",
    "test_tars": "N: the N tars before these are test",
}


def held(folder: Path, val_tars: int | None = None, test_tars: int | None = None) -> list[str]:
    """The splits that there are."""
    for name, number in (("--val-tars", val_tars), ("--test-tars", test_tars)):
        if number is not None and number < 0:
            raise ValueError(f"the number of tars is {number}; set {name} to 0 or more")
    return ["train", *(["val"] if val_tars else []), *(["test"] if test_tars else [])]


def tars(split: str, folder: Path, val_tars: int | None = None, test_tars: int | None = None) -> list[Path]:
    found = sorted(folder.glob("*.tar"))
    val = len(found) - (val_tars or 0)
    test = val - (test_tars or 0)
    if test <= 0:
        raise ValueError(
            f"{folder} holds {len(found)} tars, of which {val_tars or 0} are val and {test_tars or 0} test; it must be "
            f"{WANTED['folder']}"
        )
    return {"train": found[:test], "test": found[test:val], "val": found[val:]}[split]
