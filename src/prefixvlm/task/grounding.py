"""Visual grounding: predict the box of a phrase, scored by intersection over union."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from prefixvlm.batch import Batch, Row
from prefixvlm.data.sample import Sample
from prefixvlm.data.schema import Box
from prefixvlm.lm.interface import LanguageModel
from prefixvlm.metrics.score_kind import PERCENT
from prefixvlm.model.constrained import constrained_greedy
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.options.ranges import Bins
from prefixvlm.task.interface import MAX_ROWS, FoundBox, Task
from prefixvlm.task.results.boxes import Locations, box_data, box_iou, format_box, format_pixels, parse_boxes
from prefixvlm.task.results.prediction import Prediction, Score, item_mean_score

WHOLE_IMAGE = Box("", 0.0, 0.0, 1.0, 1.0)  # the prediction if the generated edges enclose no area


class Grounding(Task):
    """Locates a phrase: the image, then the prompt with the phrase in it, then four location tokens.

    The phrases of an image are the labels that only one of its boxes has. bins: number of positions of an edge.
    """

    name = "grounding"
    main_score = "accuracy"
    score_kinds = {"accuracy": PERCENT, "mean_overlap": PERCENT}  # noqa: RUF012
    variant = "overlap of at least a half"
    takes = "phrase"
    shown_as = "boxes"
    covers_every_sample = False  # an image without a unique label has no rows

    def __init__(self, prompt: str = "Where is the {phrase}?", bins: Bins = 100) -> None:
        if "{phrase}" not in prompt:
            raise ValueError(f"task.grounding.prompt is {prompt!r}; it needs {{phrase}} where the phrase goes")
        self.prompt, self.end = prompt, prompt.split("{phrase}", 1)[1]
        self.locations = Locations(bins, "task.grounding")
        self.decoding = {"method": "grammar", "bins": bins}

    def check(self, lm: LanguageModel, max_target_length: int | None) -> None:
        self.locations.grammar(lm, self.end)

    def training_rows(self, sample: Sample, rng: random.Random) -> list[Row]:
        return [replace(row, target=self.locations.text(_box(row.references[0]))) for row in self.prompt_rows(sample)]

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
            if labels.count(box.label) == 1  # a phrase that fits two boxes has no single right answer
        ]

    def request(self, key: str, image: Any, texts: Sequence[str] = (), answers: Sequence[str] = ()) -> Sample:
        if len(set(texts)) < len(texts):
            raise ValueError("a --phrase comes twice; give each once")
        return Sample(key, image, boxes=tuple(replace(WHOLE_IMAGE, label=phrase) for phrase in texts) or None)

    @torch.no_grad()
    def predict(self, model: PrefixLM, batch: Batch) -> list[Prediction]:
        grammar = self.locations.grammar(model.lm, self.end)
        predictions = []
        for part in batch.split(MAX_ROWS):
            texts = constrained_greedy(model, part, [grammar] * len(part.rows))
            for rows, ids in zip(part.rows, texts, strict=True):
                box = self.locations.box(str(model.lm.tokenizer.decode(ids))) or WHOLE_IMAGE
                predictions += [self.make_prediction(row, format_box(box)) for row in rows]
        return predictions

    def correct(self, prediction: str, references: Sequence[str]) -> float:
        return float(box_iou(_box(prediction), _box(references[0])) >= 0.5)

    def scores(self, predictions: Sequence[Prediction]) -> dict[str, Score]:
        """Return the share of boxes with an IoU of at least 0.5, and the mean IoU, in percent."""
        overlaps = [100 * box_iou(_box(p.prediction), _box(p.references[0])) for p in predictions]
        return super().scores(predictions) | {"mean_overlap": item_mean_score(predictions, overlaps)}

    def format(self, prediction: Prediction, size: tuple[int, int], asked: str = "") -> str:
        return format_pixels(_box(prediction.prediction), size)

    def boxes(self, prediction: Prediction) -> list[FoundBox]:
        return [(_box(prediction.prediction), None)]

    def details(self, prediction: Prediction) -> dict[str, Any]:
        true_boxes = [box_data(_box(reference)) for reference in prediction.references]
        return {"boxes": [box_data(_box(prediction.prediction))], "true_boxes": true_boxes}


def _box(text: str) -> Box:
    return parse_boxes(text)[0][0]
