"""Boxes as text for a language model, and the overlap of boxes.

An edge is a number from 0 to bins - 1, with leading zeros: with 100 bins, " circle 06 12 49 88" is a box from 6 % to
49 % of the width. These location tokens are ordinary text, so no weight of the language model has to be trained.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from prefixvlm.data.schema import Box
from prefixvlm.data.tokenization import continuation_ids
from prefixvlm.lm.interface import LanguageModel
from prefixvlm.model.grammar import Grammar

SEPARATOR = ";"


class Locations:
    """Converts the edges of a box to text and back. An edge has `bins` possible positions."""

    def __init__(self, bins: int, key: str) -> None:
        if bins < 2:
            raise ValueError(f"{key}.bins is {bins}; set it to 2 or more")
        self.bins, self.digits = bins, len(str(bins - 1))

    def text(self, box: Box) -> str:
        """Return the location tokens of a box, such as " 06 12 49 88".

        A box smaller than a bin becomes one bin wide; otherwise an edge is at most half a bin off.
        """
        (x0, x1), (y0, y1) = self._bins_of(box.x0, box.x1), self._bins_of(box.y0, box.y1)
        return "".join(f" {edge:0{self.digits}d}" for edge in (x0, y0, x1, y1))

    def _bins_of(self, low: float, high: float) -> tuple[int, int]:
        first, last = round(low * (self.bins - 1)), round(high * (self.bins - 1))
        if first < last:
            return first, last
        # Without an area its overlap with every other box would be 0.
        first = min(int((low + high) / 2 * (self.bins - 1)), self.bins - 2)
        return first, first + 1

    def box(self, text: str) -> Box | None:
        """Return the box of a text such as " circle 06 12 49 88"; None if its edges enclose no area."""
        match = re.fullmatch(r"(.*?)\s*(\d+) (\d+) (\d+) (\d+)", text.strip())
        assert match is not None, "the grammar allows nothing else"
        x0, y0, x1, y1 = (int(edge) / (self.bins - 1) for edge in match.groups()[1:])
        return Box(match[1], x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None

    def grammar(self, lm: LanguageModel, end: str, labels: Sequence[str] = (), max_boxes: int = 1) -> Grammar:
        """Return the grammar of the text after a prompt that ends with `end`: labelled boxes or one unlabelled box.

        Raises ValueError if the tokenizer merges neighbouring parts of the text, because generated ids would then
        differ from those in training.
        """
        if lm.chat:
            raise ValueError("boxes are not supported in a chat; set lm.chat=false")

        def ids(text: str) -> list[int]:
            return continuation_ids(lm.tokenizer, end, text)

        numbers = [ids(f" {number:0{self.digits}d}") for number in range(self.bins)]
        names = [ids(f" {label}") for label in labels]
        stages = ([names] if names else []) + [numbers] * 4
        separator = ids(SEPARATOR) if names else []
        # Tokenized as a whole, a text must be the same ids as its parts one after the other.
        first = "".join(f" {label}" for label in labels[:1]) + f" {0:0{self.digits}d}" * 4
        if ids(first + SEPARATOR * bool(separator)) != [i for texts in stages for i in texts[0]] + separator:
            raise ValueError(
                "the language model's tokenizer joins numbers with what stands before them; set lm to another"
            )
        return Grammar(stages, lm.eos_id, separator, max_boxes)


def format_box(box: Box, confidence: float | None = None) -> str:
    """Return the text of a box in a prediction: label, edges as fractions of the image, confidence if given."""
    numbers = [*box.edges] if confidence is None else [*box.edges, confidence]
    return " ".join([*box.label.split(), *(f"{number:.4f}" for number in numbers)])


def parse_boxes(text: str, confidences: bool = False) -> list[tuple[Box, float]]:
    """Return boxes and confidences from `format_box` texts with SEPARATOR between them; 1 without confidences."""
    boxes = []
    for each in filter(None, text.split(f"{SEPARATOR} ")):
        words = each.split()
        edges, confidence = (words[-5:-1], float(words[-1])) if confidences else (words[-4:], 1.0)
        x0, y0, x1, y1 = map(float, edges)
        boxes.append((Box(" ".join(words[: -4 - confidences]), x0, y0, x1, y1), confidence))
    return boxes


def format_pixels(box: Box, size: tuple[int, int], confidence: float | None = None) -> str:
    """Return the line that is printed: label, left, top, right and bottom in pixels, confidence if given."""
    (width, height), sure = size, [] if confidence is None else [f"{confidence:.2f}"]
    pixels = (box.x0 * width, box.y0 * height, box.x1 * width, box.y1 * height)
    return " ".join([*box.label.split(), *(str(round(pixel)) for pixel in pixels), *sure])


def box_data(box: Box, confidence: float | None = None) -> dict[str, Any]:
    """Return a box as JSON data for the report."""
    return {**asdict(box), "confidence": confidence}


def box_iou(one: Box, other: Box) -> float:
    """Return intersection over union, 0 to 1."""
    width = max(0.0, min(one.x1, other.x1) - max(one.x0, other.x0))
    height = max(0.0, min(one.y1, other.y1) - max(one.y0, other.y0))
    intersection = width * height
    return intersection / (_area(one) + _area(other) - intersection)


def confidence(log_likelihoods: Sequence[float]) -> float:
    """Return the confidence of a box: the geometric mean of the probabilities of its tokens."""
    # Their product would be lower for labels of more tokens.
    return math.exp(sum(log_likelihoods) / len(log_likelihoods))


def _area(box: Box) -> float:
    return (box.x1 - box.x0) * (box.y1 - box.y0)
