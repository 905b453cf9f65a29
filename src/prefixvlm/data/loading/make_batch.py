"""Makes a batch of raw samples, and tells which of them are bad."""

import random
from collections.abc import Callable, Iterable
from typing import Any

from PIL import Image

from prefixvlm.batch import NothingToLearnError
from prefixvlm.data.image import ImageDecoder, decode_image, reason_of
from prefixvlm.data.loading.bad_samples import Bad
from prefixvlm.data.loading.shard_source import ShardRef
from prefixvlm.data.sample import BLACK_IMAGE, Sample, decode
from prefixvlm.data.shards.read import RawSample

Collate = Callable[[list[Sample], random.Random], Any]


class BatchMaker:
    """Decodes samples and collates them.

    A sample is bad if it does not decode, or if no batch can be made of it alone, for example without a caption to
    train on; a sample that raises NothingToLearnError is not bad.

    blind: replace all images by one black image. fail: raise the error of a bad sample instead of leaving it out.
    """

    def __init__(
        self, collate: Collate, blind: bool = False, fail: bool = False, decoder: ImageDecoder = decode_image
    ) -> None:
        self.collate, self.fail, self.decoder = collate, fail, decoder
        self.image = BLACK_IMAGE if blind else None

    def make(self, samples: Iterable[tuple[ShardRef, RawSample]], seed: str) -> tuple[Any, list[Bad]]:
        """Return the batch of the good samples, or the reason (str) if there are none; and the bad samples."""
        decoded: list[tuple[ShardRef, str, Sample]] = []
        bad: list[Bad] = []
        for shard, raw in samples:
            try:
                decoded.append((shard, raw[0], decode_from(shard, raw, self.image, self.decoder)))
            except ValueError as error:
                if self.fail:
                    raise
                bad.append((_sample_name(shard, raw[0]), str(error)))
        try:
            if decoded:
                return self._collate([sample for _, _, sample in decoded], seed), bad
        except NothingToLearnError as error:
            return str(error), bad
        except Exception:  # whatever it was: an error of the batch itself is raised again below
            pass
        # The batch does not collate; samples that do not collate alone are bad.
        good, reason = [], bad[0][1] if bad else ""
        for shard, key, sample in decoded:
            try:
                self._collate([sample], seed)
                good.append(sample)
            except NothingToLearnError as error:
                reason = str(error)
            except Exception as error:  # a transform may raise MemoryError, a field of the sample OverflowError
                bad.append((_sample_name(shard, key), problem := _reason(shard, key, error)))
                if self.fail:
                    raise ValueError(problem) from error
        return (self._collate(good, seed) if good else reason or bad[0][1]), bad

    def _collate(self, samples: list[Sample], seed: str) -> Any:
        return self.collate(samples, random.Random(seed))


def decode_from(
    shard: ShardRef, raw: RawSample, image: Image.Image | None = None, decoder: ImageDecoder = decode_image
) -> Sample:
    """Decode a sample of a shard. Raises ValueError that names shard and key if the sample is bad."""
    return decode(*raw, f"shard {shard.path}", image, decoder, shard.prefix)


def _reason(shard: ShardRef, key: str, error: Exception) -> str:
    reason = reason_of(error)
    if reason.startswith("shard "):
        return reason
    return f"shard {shard.path}: {reason}" if key in reason else f"shard {shard.path}, sample {key}: {reason}"


def _sample_name(shard: ShardRef, key: str) -> str:
    return f"{shard.prefix}{shard.path.name}: {key}"
