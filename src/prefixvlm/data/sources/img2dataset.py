"""CC3M, CC12M, LAION and others as img2dataset leaves them: a folder of its tars goes in; they are used as they are.

Nothing is copied: the folder of shards holds links to the tars (NNNNN.tar with KEY.jpg, KEY.txt, KEY.json) and a
manifest. Tars that are damaged, or hold another number of samples than their NNNNN_stats.json says, are left out.
"""

from pathlib import Path

SOURCE = "Images and captions downloaded with img2dataset (https://github.com/rom1504/img2dataset)"
LICENCE = "of the images their owners'; of the list of URLs see where it comes from"
TERMS = ""
SPLITS = ("train", "val")
WANTED = {
    "folder": "DIR: the output_folder of img2dataset with output_format=webdataset; its .parquet files are not used",
    "val_tars": "N: the last N tars are val; without it, all are train",
}


def held(folder: Path, val_tars: int | None = None) -> list[str]:
    """The splits that there are."""
    return ["train", "val"] if val_tars else ["train"]


def tars(split: str, folder: Path, val_tars: int | None = None) -> list[Path]:
    found = sorted(folder.glob("*.tar"))
    if len(found) <= (val_tars or 0):
        raise ValueError(
            f"{folder} holds {len(found)} tars, of which {val_tars or 0} are val; it must be {WANTED['folder']}"
        )
    first_val = len(found) - (val_tars or 0)
    return found[first_val:] if split == "val" else found[:first_val]
