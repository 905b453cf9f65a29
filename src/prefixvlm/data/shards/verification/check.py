"""Check of one shard: its problems, and hashes of its keys and question ids."""

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from prefixvlm.data.sample import BLACK_IMAGE, IMAGE_EXTENSIONS, TEXT_EXTENSIONS, decode
from prefixvlm.data.shards.manifest import MANIFEST, Shard, sha256
from prefixvlm.data.shards.read import read_shard

MAX_PROBLEMS = 20  # the number of problems that are listed


@dataclass(frozen=True)
class ShardCheck:
    """A shard to check. shard: its manifest entry, None without a manifest. decode: also decode the images."""

    split: str
    path: Path
    shard: Shard | None
    decode: bool


@dataclass
class Findings:
    """Problems of a shard, and what is compared between shards.

    keys, question_ids, images: hashes (8 bytes) of the keys, question ids and encoded images, to fit the memory for
        millions of samples.
    texts: by the text members of a sample, the number of samples with just these, and their first keys.
    """

    problems: list[str] = field(default_factory=list)
    num_unlisted: int = 0
    keys: array = field(default_factory=lambda: array("Q"))
    question_ids: array = field(default_factory=lambda: array("Q"))
    images: array = field(default_factory=lambda: array("Q"))
    texts: dict[tuple[str, ...], tuple[int, list[str]]] = field(default_factory=dict)

    def add(self, problem: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)
        else:
            self.num_unlisted += 1


def check_shard(check: ShardCheck) -> Iterator[int | tuple[Path, Findings]]:
    """Check a shard. Yields 1 for each sample, then the path and the findings."""
    findings = Findings()
    name = check.path.name
    try:
        for problem in _compare_with_manifest(check.path, check.shard) if check.shard else ():
            findings.add(problem)
        for key, members in read_shard(check.path, on_problem=findings.add):
            findings.keys.append(hash64(key.encode()))
            findings.images.extend(hash64(data) for name, data in members.items() if name in IMAGE_EXTENSIONS)
            texts = tuple(name for name in TEXT_EXTENSIONS if name in members)
            count, keys = findings.texts.get(texts, (0, []))
            findings.texts[texts] = (count + 1, [*keys, key][:MAX_PROBLEMS])
            try:
                sample = decode(key, members, f"shard {name}", None if check.decode else BLACK_IMAGE).check()
                findings.question_ids.extend(hash64(question.id.encode()) for question in sample.questions)
            except ValueError as error:
                findings.add(str(error))
            yield 1
    except FileNotFoundError:
        findings.add(f"shard {name} is missing, though {MANIFEST} has it")
    except (ValueError, OSError) as error:
        findings.add(str(error))
    yield check.path, findings


def _compare_with_manifest(path: Path, shard: Shard) -> Iterator[str]:
    size = path.stat().st_size
    if size != shard.bytes:
        yield f"shard {path.name} has {size} bytes and {MANIFEST} says {shard.bytes}"
    elif sha256(path) != shard.sha256:
        yield f"shard {path.name} has other bytes than {MANIFEST} says (sha256)"
    if shard.text_lengths and len(shard.text_lengths) != shard.samples:
        yield f"{MANIFEST} has {len(shard.text_lengths)} text_lengths for the {shard.samples} samples of {path.name}"


def hash64(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())
