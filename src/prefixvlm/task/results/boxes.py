"""Boxes go in, text that says where they are comes out, and the other way round; and how much two boxes overlap.

An edge is a number from 0 to bins - 1, with as many digits for each: at 100 bins, " circle 06 12 49 88" is a box from
6 % to 49 % of the width. These location tokens are text that the language model knows; no weight of it need be trained.
"""

import math
import re
from collections.abc import Sequence

from prefixvlm.data.collate import continuation_ids
from prefixvlm.data.schema import Box
from prefixvlm.lm.interface import LanguageModel
from prefixvlm.model.grammar import Grammar

SEPARATOR = ";"


class Locations:
    """How many places an edge may be at, and the text of them."""

    def __init__(self, bins: int, key: str) -> None:
        if bins < 2:
            raise ValueError(f"{key}.bins is {bins}; set it to 2 or more")
        self.bins, self.digits = bins, len(str(bins - 1))

    def text(self, box: Box) -> str:
        """ " 06 12 49 88": at most half a bin from the truth; of a smaller box, one bin wide and high."""
        (x0, x1), (y0, y1) = self._places(box.x0, box.x1), self._places(box.y0, box.y1)
        return "".join(f" {edge:0{self.digits}d}" for edge in (x0, y0, x1, y1))

    def _places(self, low: float, high: float) -> tuple[int, int]:
        first, last = round(low * (self.bins - 1)), round(high * (self.bins - 1))
        if first < last:
            return first, last
        first = min(int((low + high) / 2 * (self.bins - 1)), self.bins - 2)
        return first, first + 1

    def box(self, text: str) -> Box | None:
        """The box that " circle 06 12 49 88" tells; None where its edges leave nothing in between."""
        match = re.fullmatch(r"(.*?)\s*(\d+) (\d+) (\d+) (\d+)", text.strip())
        assert match is not None, "the grammar says nothing else"
        x0, y0, x1, y1 = (int(edge) / (self.bins - 1) for edge in match.groups()[1:])
        return Box(match[1], x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None

    def grammar(self, lm: LanguageModel, end: str, labels: Sequence[str] = (), max_boxes: int = 1) -> Grammar:
        """What may follow a prompt that ends so: labelled boxes, or without labels one box.

        Raises ValueError where the tokenizer joins a text's parts, so that what is said is not what was trained.
        """

        if lm.chat:
            raise ValueError("boxes are not said in a chat yet; set lm.chat=false")

        def ids(text: str) -> list[int]:
            return continuation_ids(lm.tokenizer, end, text)

        numbers = [ids(f" {number:0{self.digits}d}") for number in range(self.bins)]
        names = [ids(f" {label}") for label in labels]
        stages = ([names] if names else []) + [numbers] * 4
        several = ids(SEPARATOR) if names else []
        whole = "".join(f" {label}" for label in labels[:1]) + f" {0:0{self.digits}d}" * 4
        if ids(whole + SEPARATOR * bool(several)) != [i for texts in stages for i in texts[0]] + several:
            raise ValueError(
                "the language model's tokenizer joins numbers with what stands before them; set lm to another"
            )
        return Grammar(stages, lm.eos_id, several, max_boxes)


def format_box(box: Box, confidence: float | None = None) -> str:
    """ "circle 0.0625 0.125 0.5 0.875", and how sure it is."""
    sure = [] if confidence is None else [f"{confidence:.4f}"]
    return " ".join([*box.label.split(), *(f"{edge:.4f}" for edge in box.edges), *sure])


def parse_boxes(text: str, confidences: bool = False) -> list[tuple[Box, float]]:
    """What `written` boxes say, with SEPARATOR between them; 1 where there are no confidences."""
    found = []
    for each in filter(None, text.split(f"{SEPARATOR} ")):
        words = each.split()
        edges, sure = (words[-5:-1], float(words[-1])) if confidences else (words[-4:], 1.0)
        x0, y0, x1, y1 = map(float, edges)
        found.append((Box(" ".join(words[: -4 - confidences]), x0, y0, x1, y1), sure))
    return found


def box_iou(one: Box, other: Box) -> float:
    """Intersection over union, 0 to 1."""
    width = max(0.0, min(one.x1, other.x1) - max(one.x0, other.x0))
    height = max(0.0, min(one.y1, other.y1) - max(one.y0, other.y0))
    both = width * height
    return both / (_area(one) + _area(other) - both)


def confidence(log_likelihoods: Sequence[float]) -> float:
    """Of a box: the geometric mean over its tokens."""
    return math.exp(sum(log_likelihoods) / len(log_likelihoods))


def _area(box: Box) -> float:
    return (box.x1 - box.x0) * (box.y1 - box.y0)
