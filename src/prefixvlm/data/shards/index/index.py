"""Index of shards that exist: counts them in parallel and writes their manifest, also of tars at URLs."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from prefixvlm.atomic import write_text
from prefixvlm.data.remote import PATIENCE, UnreachableError, download
from prefixvlm.data.shards.index.tars import Tar
from prefixvlm.data.shards.manifest import MANIFEST, Manifest, Shard, Split, read_manifest, sha256
from prefixvlm.data.shards.read import read_shard
from prefixvlm.data.shards.reencode import ReencodeOptions
from prefixvlm.data.shards.staging import StagingFolder, staging_folder
from prefixvlm.data.shards.tar_writer import Members, ShardJob, ShardRecord, fingerprint, length_of
from prefixvlm.data.shards.write import complete, write_all

MAX_UNREACHED = 16  # shards; then the network is taken to be gone


def index_shards(splits: Mapping[str, Sequence[Tar]], out: Path, source: str, licence: str, workers: int) -> Manifest:
    """Write the manifest of the tars and their text lengths to `out`; the tars stay where they are.

    Each tar is read once; one at a URL is downloaded to a temporary file for that. A tar that is damaged, missing or
    holds no samples is left out, and the manifest says why. An interrupted run goes on where it was.
    Raises ValueError if `out` has another manifest or a split has no samples, and OSError if shards were not reached.
    """
    manifest = Manifest(source, licence, 0, {split: Split() for split in splits})
    out = out.resolve()  # the staging folder stands beside it, also beside "."
    if existing := _existing(out, manifest, splits):
        return existing
    with staging_folder(out) as staging:
        staging.follow(hashlib.sha256(json.dumps([str(out), manifest.recipe()]).encode()).hexdigest())
        jobs = list(_jobs(splits, staging))
        done, unreached = 0, list[str]()
        with tqdm(desc="indexing", unit=" samples") as bar:

            def note(record: ShardRecord) -> None:
                nonlocal done
                done += 1
                bar.set_postfix_str(f"{done}/{len(jobs)} shards", refresh=False)
                if not (staging.done / f"{record.shard.name}.json").is_file():
                    unreached.extend(record.left_out.values())
                    if len(unreached) >= MAX_UNREACHED:
                        raise _unreached(unreached, len(jobs))

            records = write_all(jobs, index_tar, workers, bar, note)
        if unreached:
            raise _unreached(unreached, len(jobs))
        complete(manifest, records, out)
        for split, content in manifest.splits.items():
            if not content.shards:
                raise ValueError(f"there are no {split} samples to index ({next(iter(content.left_out.values()))})")
        write_text(out / MANIFEST, manifest.to_json())
        staging.finish()
    return manifest


def index_tar(job: ShardJob) -> Iterator[int | ShardRecord]:
    """Count a tar. Yields 1 for each sample, then the record of the shard, which is not saved if it was not reached."""
    ((name, members),) = job.candidates
    assert isinstance(members, dict)
    place = members["tar"]
    url = "" if isinstance(place, Path) else place.decode()
    shard, left_out, reached = Shard(job.path.name, 0, 0, "", url=url), dict[str, str](), True
    try:
        if url:
            download(url, job.path, None, None, PATIENCE)
        lengths = []
        for key, sample in read_shard(job.path):
            lengths.append(length_of(key, sample))
            yield 1
        if lengths:
            size = job.path.stat().st_size
            shard = Shard(shard.name, len(lengths), size, sha256(job.path), lengths, url)
        else:
            left_out[name] = f"shard {url or job.path} holds no samples"
    except UnreachableError as error:
        left_out[name], reached = str(error), False
    except ValueError as error:
        left_out[name] = str(error).replace(str(job.path), url or str(job.path))
    finally:
        if url:
            job.path.unlink(missing_ok=True)
    record = ShardRecord(job.split, job.fingerprint, shard, left_out)
    if reached:
        record.save(job.sidecar)
    yield record


def _jobs(splits: Mapping[str, Sequence[Tar]], staging: StagingFolder) -> Iterator[ShardJob]:
    for split, tars in splits.items():
        for tar in tars:
            members: Members = {"tar": tar.path or tar.url.encode()}
            path = tar.path or staging.shards / tar.name
            sidecar = staging.done / f"{tar.name}.json"
            yield ShardJob(
                split, path, sidecar, [(tar.name, members)], ReencodeOptions(), fingerprint([(split, members)])
            )


def _existing(out: Path, wanted: Manifest, splits: Mapping[str, Sequence[Tar]]) -> Manifest | None:
    """Return the manifest that `out` has if it is of these tars. Raises ValueError if it is of others."""
    existing = read_manifest(out)
    if existing is None:
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out} is a file; give a folder")
        return None
    known = {name for split in existing.splits.values() for name in split.left_out}
    known |= {shard.name for split in existing.splits.values() for shard in split.shards}
    if existing.recipe() != wanted.recipe() or {tar.name for tars in splits.values() for tar in tars} != known:
        raise ValueError(f"{out / MANIFEST} is of other shards or of another command; delete it to index anew")
    print(f"{out} has the {MANIFEST} of these shards already; delete it to index anew.")
    return existing


def _unreached(reasons: Sequence[str], total: int) -> OSError:
    return OSError(
        f"{len(reasons)} of {total} shards were not reached, as: {reasons[0]} The same command tries them again and "
        "keeps what it has counted."
    )
