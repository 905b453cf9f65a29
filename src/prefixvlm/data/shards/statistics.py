"""Samples go in one by one, rows of a table that sums them up come out; memory does not grow with their number."""

import io
import re
from collections import Counter
from collections.abc import Mapping

from PIL import Image

from prefixvlm.data.sample import IMAGE_EXTENSIONS, Sample

KEPT = 100_000  # words or answers that are counted on when there are twice as many
SHOWN = 8


class Frequencies:
    """How often each text came; of very many, rare ones may be forgotten."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, *texts: str) -> None:
        self.counts.update(texts)
        if len(self.counts) > 2 * KEPT:
            self.counts = Counter(dict(self.counts.most_common(KEPT)))

    def __str__(self) -> str:
        found = sorted(self.counts.items(), key=lambda pair: (-pair[1], pair[0]))[:SHOWN]
        return ", ".join(f"{text[:30]} {count}" for text, count in found) or "-"


class Lengths:
    """Smallest, mean and greatest of some numbers."""

    def __init__(self) -> None:
        self.count, self.sum, self.least, self.most = 0, 0, 0, 0

    def add(self, value: int) -> None:
        self.least = min(self.least, value) if self.count else value
        self.most = max(self.most, value)
        self.count, self.sum = self.count + 1, self.sum + value

    def __str__(self) -> str:
        return f"{self.sum / self.count:.1f} ({self.least} ... {self.most})" if self.count else "-"


class Statistics:
    """Of the samples of a split."""

    def __init__(self) -> None:
        self.samples = self.bytes = self.bad = 0
        self.captions, self.questions, self.answers = Lengths(), Lengths(), Lengths()
        self.caption_length, self.question_length = Lengths(), Lengths()
        self.width, self.height = Lengths(), Lengths()
        self.words, self.given, self.labels = Frequencies(), Frequencies(), Frequencies()

    def add(self, members: Mapping[str, bytes], sample: Sample | None) -> None:
        """sample: None where it does not decode."""
        self.samples, self.bytes = self.samples + 1, self.bytes + sum(map(len, members.values()))
        if sample is None:
            self.bad += 1
            return
        for name, data in members.items():
            if name in IMAGE_EXTENSIONS:
                width, height = Image.open(io.BytesIO(data)).size  # from the header
                self.width.add(width)
                self.height.add(height)
        self.captions.add(len(sample.captions))
        self.questions.add(len(sample.questions))
        for caption in sample.captions:
            self.caption_length.add(len(caption))
            self.words.add(*_words(caption))
        for question in sample.questions:
            self.question_length.add(len(question.question))
            self.words.add(*_words(question.question))
            self.answers.add(len(question.answers))
            self.given.add(*question.answers)
        self.labels.add(*(f"{name}: {value}" for name, value in sample.labels.items()))

    def rows(self) -> dict[str, str]:
        """By name, for a table."""
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
            "answers": str(self.given),
            "labels": str(self.labels),
        }


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
