"""Grounding: an image and a phrase go in, the box of what the phrase names comes out; scored by overlap."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from prefixvlm.batch import Batch, Row
from prefixvlm.data.sample import Sample
from prefixvlm.data.schema import Box
from prefixvlm.lm.interface import LanguageModel
from prefixvlm.model.constrained import constrained_greedy
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.task.interface import MAX_ROWS, Task
from prefixvlm.task.results.boxes import Locations, box_iou, format_box, parse_boxes
from prefixvlm.task.results.prediction import Prediction, Score, item_mean_score

NOTHING = Box("", 0.0, 0.0, 1.0, 1.0)  # for edges that leave nothing in between: the whole image


class Grounding(Task):
    """The image, then the prompt with the phrase in it, then four location tokens.

    A phrase is the label of a box that no other box of the image has. bins: places of an edge.
    """

    name = "grounding"
    main_score = "accuracy"
    variant = "overlap of at least a half"
    covers_every_sample = False  # only images with a label that one box has

    def __init__(self, prompt: str = "Where is the {phrase}?", bins: int = 100) -> None:
        if "{phrase}" not in prompt:
            raise ValueError(f"task.grounding.prompt is {prompt!r}; it needs {{phrase}} where the phrase goes")
        self.prompt, self.end = prompt, prompt.split("{phrase}", 1)[1]
        self.locations = Locations(bins, "task.grounding")
        self.decoding = {"method": "grammar", "bins": bins}

    def check(self, lm: LanguageModel, max_target_length: int | None) -> None:
        self.locations.grammar(lm, self.end)

    def training_rows(self, sample: Sample, rng: random.Random) -> list[Row]:
        return [
            replace(row, target=self.locations.text(parse_boxes(row.references[0])[0][0]))
            for row in self.prompt_rows(sample)
        ]

    def prompt_rows(self, sample: Sample) -> list[Row]:
        labels = [box.label for box in sample.boxes or ()]
        return [
            Row(
                (sample.image, self.prompt.replace("{phrase}", box.label)),
                "",
                sample.key,
                f"{sample.key}-{number}",
                (format_box(replace(box, label="")),),
            )
            for number, box in enumerate(sample.boxes or ())
            if labels.count(box.label) == 1
        ]

    @torch.no_grad()
    def predict(self, model: PrefixLM, batch: Batch) -> list[Prediction]:
        grammar = self.locations.grammar(model.lm, self.end)
        return [
            self.make_prediction(row, format_box(self.locations.box(str(model.lm.tokenizer.decode(ids))) or NOTHING))
            for part in batch.split(MAX_ROWS)
            for rows, ids in zip(part.rows, constrained_greedy(model, part, [grammar] * len(part.rows)), strict=True)
            for row in rows
        ]

    def correct(self, prediction: str, references: Sequence[str]) -> float:
        return float(_overlap(prediction, references[0]) >= 0.5)

    def scores(self, predictions: Sequence[Prediction]) -> dict[str, Score]:
        """In percent: boxes that overlap by a half, and the mean overlap."""
        overlaps = [100 * _overlap(p.prediction, p.references[0]) for p in predictions]
        return super().scores(predictions) | {"mean_overlap": item_mean_score(predictions, overlaps)}

    def report(self, predictions: Sequence[Prediction]) -> dict[str, Any]:
        return super().report(predictions) | {"shown_as": "boxes"}


def _overlap(one: str, other: str) -> float:
    return box_iou(parse_boxes(one)[0][0], parse_boxes(other)[0][0])
