"""Reads the samples of a shard by their numbers, and walks its headers once."""

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from prefixvlm.data.shards.read import RawSample, open_tar, raise_problem, read_member, sample_headers


class IndexedShard:
    """A shard of `count` samples. Its headers are read no further than to the sample that is asked for."""

    def __init__(self, path: Path, count: int) -> None:
        self.path, self.count = path, count
        self._headers = self._walk()
        self.finished = False  # whether all headers were read, and the file is closed
        self._index: list[tuple[str, list[tuple[str, int, int]]]] = []  # key; extension, offset and size of each member

    def read(self, numbers: Sequence[int]) -> Iterator[RawSample]:
        """Yield the samples with these numbers, which are sorted. Raises ValueError if the shard is damaged."""
        with self.path.open("rb") as file:
            for number in numbers:
                while len(self._index) <= number:
                    if (headers := next(self._headers, None)) is None:
                        raise ValueError(
                            f"shard {self.path} has lost samples since it was counted; was it written to meanwhile?"
                        )
                    self._index.append(headers)
                key, members = self._index[number]
                yield key, {name: read_member(self.path, file, offset, size) for name, offset, size in members}
        if numbers[-1] == self.count - 1:
            self.finish()  # at the end of the shard its number of samples is checked

    def finish(self) -> None:
        """Read the other headers now, and so close the file."""
        self._index.extend(self._headers)
        self.finished = True

    def close(self) -> None:
        self._headers.close()

    def _walk(self) -> Generator[tuple[str, list[tuple[str, int, int]]], None, None]:
        with open_tar(self.path) as tar:
            for key, members in sample_headers(tar, raise_problem):
                yield key, [(name, info.offset_data, info.size) for name, info in members.items()]
