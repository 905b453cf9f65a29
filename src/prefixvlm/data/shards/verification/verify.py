"""Verify a folder of shards: check each shard, the manifest, and what must be unique over all shards."""

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from prefixvlm.data.sample import BLACK_IMAGE, decode
from prefixvlm.data.shards.manifest import MANIFEST, read_manifest, sha256
from prefixvlm.data.shards.read import read_shard
from prefixvlm.data.shards.resolve import all_shards
from prefixvlm.data.shards.verification.check import MAX_PROBLEMS, Findings, ShardCheck, check_shard, hash64
from prefixvlm.data.shards.verification.repeated_images import repeated_images
from prefixvlm.data.shards.worker_pool import run

SPLITS = ("train", "val", "test")


def verify_folder(folder: Path, decode_images: bool = False, workers: int = 1) -> str:
    """Verify a folder of shards and return a sentence that it is whole.

    decode_images: also decode every image.
    Raises ValueError if there are problems, with the problems as notes. Without a manifest, sample counts and bytes are
    not checked.
    """
    checks = [ShardCheck(*shard, decode_images) for shard in all_shards(folder)]
    everything = Findings()
    for problem in _check_folder(folder, checks):
        everything.add(problem)
    findings = _check_shards(checks, workers)
    for check in checks:
        for problem in findings[check.path].problems:
            everything.add(problem)
        everything.num_unlisted += findings[check.path].num_unlisted
    for split in dict.fromkeys(check.split for check in checks):
        shards = {check.path: findings[check.path] for check in checks if check.split == split}
        for problem in _missing_texts(split, shards):
            everything.add(problem)
        for problem in _duplicates(shards, "question id", lambda shard: shard.question_ids, _question_ids):
            everything.add(problem)
    for problem in _duplicates(findings, "key", lambda shard: shard.keys, _keys):
        everything.add(problem)
    if everything.problems:
        raise _error(folder, everything)
    listed = "" if all(check.shard for check in checks) else f"; without a {MANIFEST}, no counts and bytes are checked"
    num_samples = sum(len(shard.keys) for shard in findings.values())
    repeated = repeated_images(findings, {check.path: check.split for check in checks})
    note = f"\n{repeated}" if repeated else ""
    return f"{folder} is whole: {num_samples} samples in {len(checks)} shards{listed}{note}"


def _check_folder(folder: Path, checks: list[ShardCheck]) -> Iterator[str]:
    """Check the manifest and the names of the tars."""
    try:
        manifest = read_manifest(folder, check_totals=True)
        has_manifest = manifest is not None
    except ValueError as error:
        yield str(error)
        manifest, has_manifest = None, True
    for split in manifest.splits.values() if manifest else ():
        if (lengths := split.text_lengths) and not (
            (path := folder / lengths.name).is_file() and sha256(path) == lengths.sha256
        ):
            yield f"{lengths.name} is missing or has other bytes than {MANIFEST} says (sha256)"
    if has_manifest:
        for name in sorted({path.name for path in folder.glob("*.tar")} - {check.path.name for check in checks}):
            yield f"shard {name} is in the folder, but {MANIFEST} does not have it"
    elif any(check.split in SPLITS for check in checks):
        for name in (check.path.name for check in checks if check.split not in SPLITS):
            yield f"shard {name} is named for none of {', '.join(SPLITS)}, as {SPLITS[0]}-000000.tar is"


def _check_shards(checks: list[ShardCheck], workers: int) -> dict[Path, Findings]:
    findings: dict[Path, Findings] = {}
    total = sum(check.shard.samples for check in checks if check.shard)
    bar = tqdm(total=total or None, desc="verifying", unit=" samples")
    with bar, closing(run(check_shard, checks, workers)) as results:
        for result in results:
            if isinstance(result, int):
                bar.update(result)
            else:
                findings[result[0]] = result[1]
    return findings


def _missing_texts(split: str, shards: dict[Path, Findings]) -> Iterator[str]:
    """Find samples without the text members that most samples of the split have."""
    counts: dict[tuple[str, ...], int] = defaultdict(int)
    for findings in shards.values():
        for texts, (count, _) in findings.texts.items():
            counts[texts] += count
    usual = max(counts, key=lambda texts: (counts[texts], texts), default=())
    for path, findings in shards.items():
        for texts, (_, keys) in findings.texts.items():
            if missing := set(usual) - set(texts):
                names = ", .".join(sorted(missing))
                yield from (
                    f"shard {path.name}, sample {key} has no .{names}, as others of {split} have" for key in keys
                )


def _duplicates(
    shards: dict[Path, Findings],
    what: str,
    hashes_of: Callable[[Findings], array],
    names_of: Callable[[str, Any], list[str]],
) -> Iterator[str]:
    """Find names that come more than once. hashes_of: the hashes of a shard; names_of: the names of a sample."""
    if not shards:
        return
    hashes, counts = np.unique(
        np.concatenate([hashes_of(findings) for findings in shards.values()]), return_counts=True
    )
    repeated = hashes[counts > 1][:MAX_PROBLEMS]
    places: dict[str, list[str]] = defaultdict(list)
    for path, findings in shards.items():
        # Only shards with a repeated hash are read again, for the names behind the hashes.
        if len(repeated) and np.isin(repeated, hashes_of(findings)).any():
            for name in _read_names(path, names_of):
                if hash64(name.encode()) in repeated:
                    places[name].append(path.name)
    for name, paths in places.items():
        if len(paths) > 1:
            yield f"the {what} {name} comes twice, in {' and '.join(dict.fromkeys(paths))}"


def _read_names(path: Path, names_of: Callable[[str, Any], list[str]]) -> Iterator[str]:
    with suppress(ValueError, OSError):  # check_shard has reported it
        for key, members in read_shard(path, on_problem=lambda _: None):
            with suppress(ValueError):
                yield from names_of(key, members)


def _keys(key: str, _: Any) -> list[str]:
    return [key]


def _question_ids(key: str, members: Any) -> list[str]:
    return [question.id for question in decode(key, members, "", BLACK_IMAGE).questions]


def _error(folder: Path, findings: Findings) -> ValueError:
    number = len(findings.problems) + findings.num_unlisted
    error = ValueError(f"{folder} has {number} problem{'s' if number > 1 else ''}")
    for problem in findings.problems:
        error.add_note(f"  {problem}")
    if findings.num_unlisted:
        error.add_note(f"  and {findings.num_unlisted} more")
    return error
