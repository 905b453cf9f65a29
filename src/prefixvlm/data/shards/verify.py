"""A folder of shards goes in; a sentence that it is whole, or a list of what is wrong with it, comes out."""

import hashlib
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from prefixvlm.data.sample import BLACK, TEXT_EXTENSIONS, decode
from prefixvlm.data.shards.manifest import MANIFEST, Shard, all_shards, read_manifest, sha256
from prefixvlm.data.shards.read import read_shard
from prefixvlm.data.shards.worker_pool import run

MOST = 20  # problems that are named
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Check:
    """What is to be checked. shard: what the manifest says of it, if there is one."""

    split: str
    path: Path
    shard: Shard | None
    decode: bool


@dataclass
class Found:
    """What a shard holds and what is wrong with it.

    keys, questions: a hash of 8 bytes for each sample's key and each question's id. texts: by the text members of a
    sample, how many samples have just these, and the first keys of them.
    """

    problems: list[str] = field(default_factory=list)
    more: int = 0  # problems that are not named
    keys: array = field(default_factory=lambda: array("Q"))
    questions: array = field(default_factory=lambda: array("Q"))
    texts: dict[tuple[str, ...], tuple[int, list[str]]] = field(default_factory=dict)

    def say(self, problem: str) -> None:
        if len(self.problems) < MOST:
            self.problems.append(problem)
        else:
            self.more += 1


def verify_folder(folder: Path, decoded: bool = False, workers: int = 1) -> str:
    """Raises ValueError, the problems as its notes, if there are any. decoded: whether images must decode, too.

    Without a manifest, the numbers of samples and the bytes cannot be held against anything.
    """
    checks = [Check(*shard, decoded) for shard in all_shards(folder)]
    everything = Found()
    for problem in _of_folder(folder, checks):
        everything.say(problem)
    found: dict[Path, Found] = {}
    total = sum(check.shard.samples for check in checks if check.shard)
    bar = tqdm(total=total or None, desc="verifying", unit=" samples")
    with bar, closing(run(check_shard, checks, workers)) as results:
        for result in results:
            if isinstance(result, int):
                bar.update(result)
            else:
                found[result[0]] = result[1]
    for check in checks:
        for problem in found[check.path].problems:
            everything.say(problem)
        everything.more += found[check.path].more
    for split in dict.fromkeys(check.split for check in checks):
        shards = {check.path: found[check.path] for check in checks if check.split == split}
        for problem in (*_half(split, shards), *_repeated(shards, "question id", lambda each: each.questions, _ids)):
            everything.say(problem)
    for problem in _repeated(found, "key", lambda each: each.keys, _keys):
        everything.say(problem)
    if everything.problems:
        raise _error(folder, everything)
    listed = "" if all(check.shard for check in checks) else f"; without a {MANIFEST}, no counts and bytes are checked"
    samples = sum(len(each.keys) for each in found.values())
    return f"{folder} is whole: {samples} samples in {len(checks)} shards{listed}"


def check_shard(check: Check) -> Iterator[int | tuple[Path, Found]]:
    """Yields 1 for each sample, and at last what was found."""
    found = Found()
    name = check.path.name
    try:
        for problem in _held_against(check.path, check.shard) if check.shard else ():
            found.say(problem)
        for key, members in read_shard(check.path, say=found.say):
            found.keys.append(_hash(key))
            texts = tuple(name for name in TEXT_EXTENSIONS if name in members)
            count, keys = found.texts.get(texts, (0, []))
            found.texts[texts] = (count + 1, [*keys, key][:MOST])
            try:
                sample = decode(key, members, f"shard {name}", None if check.decode else BLACK)
                found.questions.extend(_hash(question.id) for question in sample.questions)
            except ValueError as error:
                found.say(str(error))
            yield 1
    except FileNotFoundError:
        found.say(f"shard {name} is missing, though {MANIFEST} has it")
    except (ValueError, OSError) as error:
        found.say(str(error))
    yield check.path, found


def _of_folder(folder: Path, checks: list[Check]) -> Iterator[str]:
    """What is wrong with the names of the tars and with the manifest."""
    try:
        listed = read_manifest(folder, exactly=True) is not None
    except ValueError as error:
        yield str(error)
        listed = True
    if listed:
        for name in sorted({path.name for path in folder.glob("*.tar")} - {check.path.name for check in checks}):
            yield f"shard {name} is in the folder, but {MANIFEST} does not have it"
    elif any(check.split in SPLITS for check in checks):
        for name in (check.path.name for check in checks if check.split not in SPLITS):
            yield f"shard {name} is named for none of {', '.join(SPLITS)}, as {SPLITS[0]}-000000.tar is"


def _held_against(path: Path, shard: Shard) -> Iterator[str]:
    size = path.stat().st_size
    if size != shard.bytes:
        yield f"shard {path.name} has {size} bytes and {MANIFEST} says {shard.bytes}"
    elif sha256(path) != shard.sha256:
        yield f"shard {path.name} has other bytes than {MANIFEST} says (sha256)"
    if shard.text_lengths and len(shard.text_lengths) != shard.samples:
        yield f"{MANIFEST} has {len(shard.text_lengths)} text_lengths for the {shard.samples} samples of {path.name}"


def _half(split: str, shards: dict[Path, Found]) -> Iterator[str]:
    """Samples without the texts that most of the split's samples have."""
    counts: dict[tuple[str, ...], int] = defaultdict(int)
    for found in shards.values():
        for texts, (count, _) in found.texts.items():
            counts[texts] += count
    usual = max(counts, key=lambda texts: (counts[texts], texts), default=())
    for path, found in shards.items():
        for texts, (_, keys) in found.texts.items():
            if missing := set(usual) - set(texts):
                names = ", .".join(sorted(missing))
                yield from (
                    f"shard {path.name}, sample {key} has no .{names}, as others of {split} have" for key in keys
                )


def _repeated(
    shards: dict[Path, Found], what: str, of: Callable[[Found], array], names: Callable[[str, Any], list[str]]
) -> Iterator[str]:
    """Those that come more than once. of: their hashes; names: themselves, of a sample."""
    if not shards:
        return
    hashes, counts = np.unique(np.concatenate([of(found) for found in shards.values()]), return_counts=True)
    twice = hashes[counts > 1][:MOST]
    where: dict[str, list[str]] = defaultdict(list)
    for path, found in shards.items():
        if len(twice) and np.isin(twice, of(found)).any():
            for name in _named(path, names):
                if _hash(name) in twice:
                    where[name].append(path.name)
    for name, places in where.items():
        if len(places) > 1:
            yield f"the {what} {name} comes twice, in {' and '.join(dict.fromkeys(places))}"


def _named(path: Path, names: Callable[[str, Any], list[str]]) -> Iterator[str]:
    with suppress(ValueError, OSError):  # named already
        for key, members in read_shard(path, say=lambda _: None):
            with suppress(ValueError):
                yield from names(key, members)


def _keys(key: str, _: Any) -> list[str]:
    return [key]


def _ids(key: str, members: Any) -> list[str]:
    return [question.id for question in decode(key, members, "", BLACK).questions]


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest())


def _error(folder: Path, found: Found) -> ValueError:
    number = len(found.problems) + found.more
    error = ValueError(f"{folder} has {number} problem{'s' if number > 1 else ''}")
    for problem in found.problems:
        error.add_note(f"  {problem}")
    if found.more:
        error.add_note(f"  and {found.more} more")
    return error
