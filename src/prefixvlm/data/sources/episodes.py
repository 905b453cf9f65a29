"""Episodes of fast binding from labelled images, in shards that exist already.

Frozen's miniImageNet in small, with images of one's own (https://arxiv.org/abs/2106.13884, section 4.3). A kind is a
value of --label; with --label color,shape a pair of values. An episode draws kinds and gives each an invented name,
shows images of each kind with the text "This is a NAME.", and asks for the name of another image of one of them.
Every name is the answer equally often, at every place among the kinds, so that a model that does not see the images is
right by chance if the number of episodes is a multiple of ways * ways.
"""

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prefixvlm.data.sample import VISUAL_EXTENSIONS
from prefixvlm.data.schema import json_member, text_fields
from prefixvlm.data.shards.manifest import MANIFEST, sha256
from prefixvlm.data.shards.read import read_shard
from prefixvlm.data.shards.tar_writer import Members
from prefixvlm.data.sources._files import Samples

SOURCE = "Episodes of fast binding from labelled images in shards"
LICENCE = "that of the images"
TERMS = ""
SPLITS = ("val", "test")
ARGUMENTS = {
    "shards": "DIR: a folder of shards with labels, as `prefixvlm shards easy-vqa` writes it",
    "label": "NAME: the label that is the kind of an image; or several, as color,shape",
    "ways": "N: number of kinds and names in an episode, 2 to 8 (2)",
    "shots": "N: number of images of each kind that are shown, all different (1)",
    "episodes": "N: number of episodes of a split (256)",
    "seed": "N: of the draw (0)",
}
# Invented words whose first tokens differ in the usual vocabularies; the first two are Frozen's.
NAMES = ("dax", "blicket", "wug", "fep", "gop", "toma", "zib", "perp")


def available_splits(shards: Path, **_: Any) -> list[str]:
    """Return the splits that the folder has. Raises ValueError if it has none."""
    found = [split for split in SPLITS if any(shards.glob(f"{split}-*.tar"))]
    if not found:
        raise ValueError(f"{shards} has no shards val-*.tar or test-*.tar; --shards must be {ARGUMENTS['shards']}")
    return found


def version(shards: Path, **_: Any) -> str:
    """Return what the manifest names, so that episodes of other shards are other shards."""
    path = shards / MANIFEST
    return f"{MANIFEST} (sha256 {sha256(path)[:16]})" if path.is_file() else f"without {MANIFEST}"


def samples(
    split: str, shards: Path, label: str, ways: int = 2, shots: int = 1, episodes: int = 256, seed: int = 0
) -> Samples:
    """Return the episodes; raises ValueError if fewer than `ways` kinds have more than `shots` images."""
    if not 2 <= ways <= len(NAMES):
        raise ValueError(f"--ways is {ways}; set it to 2 to {len(NAMES)}")
    if shots < 1 or episodes < 1:
        raise ValueError(f"--shots is {shots} and --episodes {episodes}; set both to 1 or more")
    images = _images(shards, split, label.split(","))
    kinds = {kind: sorted(keys) for kind, keys in sorted(images.items()) if len(keys) > shots}
    if len(kinds) < ways:
        raise ValueError(
            f"the {split} split of {shards} has {len(kinds)} values of {label} with more than {shots} labelled images, "
            f"and an episode needs {ways}; set --label, --ways or --shots"
        )
    return _episodes(split, images, kinds, ways, shots, episodes, seed)


def _episodes(
    split: str, images: Mapping[str, Any], kinds: Mapping[str, list[str]], ways: int, shots: int, count: int, seed: int
) -> Iterator[tuple[str, Members]]:
    rng = random.Random(f"{seed}-{split}")
    names = list(NAMES[:ways])
    for number in range(count):
        place, answer = number // ways % ways, number % ways
        if number % ways**2 == 0:  # a block of episodes with every place and answer has the same names
            names = sorted(rng.sample(NAMES, ways))
        chosen = rng.sample(list(kinds), ways)
        order = [name for name in names if name != names[answer]]
        rng.shuffle(order)
        order.insert(place, names[answer])
        keys = [rng.sample(kinds[kind], shots + (at == place)) for at, kind in enumerate(chosen)]
        shown = [(images[chosen[at]][keys[at][shot]], order[at]) for shot in range(shots) for at in range(ways)]
        key = f"{split}-{number:05d}"
        (extension, query) = images[chosen[place]][keys[place][shots]]
        question = {"id": key, "question": "What is this?", "answers": [names[answer]], "choices": names}
        support = [
            {"image": f"{at}.{suffix}", "text": f"This is a {name}."} for at, ((suffix, _), name) in enumerate(shown)
        ]
        members = {f"{at}.{suffix}": content for at, ((suffix, content), _) in enumerate(shown)}
        content = {
            "questions": [question],
            "support": support,
            "labels": {"kind": chosen[place]},
            "label_sets": {"kinds": [chosen[at] for _ in range(shots) for at in range(ways)]},  # of the support
        }
        yield key, {**members, extension: query, "json": json.dumps(content).encode()}


def _images(shards: Path, split: str, labels: list[str]) -> dict[str, dict[str, tuple[str, bytes]]]:
    """Return by kind and key the extension and the bytes of each image that has all the labels."""
    images: dict[str, dict[str, tuple[str, bytes]]] = {}
    for path in sorted(shards.glob(f"{split}-*.tar")):
        for key, members in read_shard(path):
            values = text_fields(json_member(members), "labels")
            if all(label in values for label in labels):
                kind = " ".join(values[label] for label in labels)
                images.setdefault(kind, {})[key] = next(
                    item for item in members.items() if item[0] in VISUAL_EXTENSIONS
                )
    return images
