"""Statistics of the samples of a split, in memory that does not grow with their number."""

import re
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

from prefixvlm.data.image import decode_image
from prefixvlm.data.sample import IMAGE_EXTENSIONS, Sample

MAX_TEXTS = 100_000  # at twice as many, only the most frequent are kept
NUM_SHOWN = 8


class Frequencies:
    """Counts texts. Rare ones may be dropped if there are very many."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, *texts: str) -> None:
        self.counts.update(texts)
        if len(self.counts) > 2 * MAX_TEXTS:
            self.counts = Counter(dict(self.counts.most_common(MAX_TEXTS)))

    def __str__(self) -> str:
        top = sorted(self.counts.items(), key=lambda pair: (-pair[1], pair[0]))[:NUM_SHOWN]
        return ", ".join(f"{text[:30]} {count}" for text, count in top) or "-"


class Range:
    """Mean, minimum and maximum of numbers."""

    def __init__(self) -> None:
        self.count, self.sum, self.min, self.max = 0, 0, 0, 0

    def add(self, value: int) -> None:
        self.min = min(self.min, value) if self.count else value
        self.max = max(self.max, value)
        self.count, self.sum = self.count + 1, self.sum + value

    def __str__(self) -> str:
        return f"{self.sum / self.count:.1f} ({self.min} ... {self.max})" if self.count else "-"


class Statistics:
    """Statistics of the samples of a split."""

    def __init__(self) -> None:
        self.samples = self.bytes = self.bad = 0
        self.captions, self.questions, self.answers = Range(), Range(), Range()
        self.caption_length, self.question_length = Range(), Range()
        self.width, self.height = Range(), Range()
        self.words, self.answer_texts, self.labels = Frequencies(), Frequencies(), Frequencies()

    def add(self, members: Mapping[str, bytes], sample: Sample | None) -> None:
        """Add a sample. sample: None if it does not decode."""
        self.samples, self.bytes = self.samples + 1, self.bytes + sum(map(len, members.values()))
        if sample is None:
            self.bad += 1
            return
        for name, data in members.items():
            if name in IMAGE_EXTENSIONS:
                with suppress(ValueError):  # the texts alone have been decoded
                    header = decode_image.header(data)
                    self.width.add(header.width)
                    self.height.add(header.height)
        self.captions.add(len(sample.captions))
        self.questions.add(len(sample.questions))
        for caption in sample.captions:
            self.caption_length.add(len(caption))
            self.words.add(*_words(caption))
        for question in sample.questions:
            self.question_length.add(len(question.question))
            self.words.add(*_words(question.question))
            self.answers.add(len(question.answers))
            self.answer_texts.add(*question.answers)
        self.labels.add(*(f"{name}: {value}" for name, value in sample.labels.items()))

    def rows(self) -> dict[str, str]:
        """Return the rows of a table, by name."""
        return {
            "samples": str(self.samples),
            "bytes": f"{self.bytes:,}",
            "do not decode": str(self.bad),
            "image width": str(self.width),
            "image height": str(self.height),
            "captions a sample": str(self.captions),
            "characters a caption": str(self.caption_length),
            "questions a sample": str(self.questions),
            "characters a question": str(self.question_length),
            "answers a question": str(self.answers),
            "words": str(self.words),
            "answers": str(self.answer_texts),
            "labels": str(self.labels),
        }


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
