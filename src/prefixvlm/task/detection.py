"""Object detection as text: a label and a box for each object, scored as by COCO."""

import random
from collections.abc import Sequence
from typing import Any

import torch

from prefixvlm.batch import AssistantTurn, Batch, Row
from prefixvlm.data.sample import Sample
from prefixvlm.data.schema import Box
from prefixvlm.lm.interface import LanguageModel
from prefixvlm.metrics.detection import mean_average_precision
from prefixvlm.metrics.score_kind import PERCENT
from prefixvlm.model.constrained import constrained_greedy_with_logprobs
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.options.ranges import Bins, Positive
from prefixvlm.task.interface import MAX_ROWS, FoundBox, Task
from prefixvlm.task.results.boxes import (
    SEPARATOR,
    Locations,
    box_data,
    box_iou,
    confidence,
    format_box,
    format_pixels,
    parse_boxes,
)
from prefixvlm.task.results.class_scores import check_classes
from prefixvlm.task.results.prediction import Prediction, Score


class Detection(Task):
    """Detects objects: the image, then the prompt, then " circle 06 12 49 88; ..." (as Pix2Seq, Chen et al. 2022).

    A grammar constrains decoding. classes: all labels. bins: number of possible positions of an edge.
    max_boxes: most boxes of a prediction and of a training target; boxes beyond it are left out at random.
    """

    name = "detection"
    main_score = "f1_50"
    score_kinds = dict.fromkeys(("f1_50", "map", "mar_100"), PERCENT)
    variant = "COCO mAP by torchmetrics and pycocotools; a box's confidence is its tokens' geometric mean"
    shown_as = "boxes"

    def __init__(
        self,
        classes: Sequence[str],
        prompt: str = "Things and where they are:",
        max_boxes: Positive = 8,
        bins: Bins = 100,
    ) -> None:
        check_classes("task.detection", classes, least=1)
        if wrong := [
            name for name in classes if SEPARATOR in name or name[-1].isdigit() or name.split() != name.split(" ")
        ]:
            raise ValueError(
                f"task.detection.classes has {wrong[0]!r}; a label has no {SEPARATOR!r}, ends in no digit, "
                "and has single spaces between its words"
            )
        if max_boxes < 1:
            raise ValueError(f"task.detection.max_boxes is {max_boxes}; set it to 1 or more")
        self.classes, self.prompt, self.max_boxes = list(classes), prompt, max_boxes
        self.locations = Locations(bins, "task.detection")
        self.decoding = {"method": "grammar", "classes": len(self.classes), "max_boxes": max_boxes, "bins": bins}

    def check(self, lm: LanguageModel, max_target_length: int | None) -> None:
        # A target that is cut would teach boxes without some of their edges.
        depth = self.locations.grammar(lm, self.prompt, self.classes, self.max_boxes).depth
        if max_target_length is not None and depth > max_target_length:
            raise ValueError(
                f"{self.max_boxes} boxes take up to {depth} tokens; module.max_target_length is {max_target_length}: "
                "set task.detection.max_boxes lower, or that higher"
            )

    def training_rows(self, sample: Sample, rng: random.Random) -> list[Row]:
        if sample.boxes is None:
            return []
        # In random order, as in Pix2Seq, whose authors found no fixed order that was better.
        boxes = rng.sample(sample.boxes, min(len(sample.boxes), self.max_boxes))
        target = SEPARATOR.join(f" {self._label(sample, box)}{self.locations.text(box)}" for box in boxes)
        return [Row((sample.image, self.prompt), target or AssistantTurn(), sample.key)]

    def prompt_rows(self, sample: Sample) -> list[Row]:
        """Return one row. Samples without a list of boxes are not scored; an empty list is an image without objects."""
        for box in sample.boxes or ():
            self._label(sample, box)
        known = [] if sample.boxes is None else [sample.boxes]
        references = tuple(f"{SEPARATOR} ".join(map(format_box, boxes)) for boxes in known)
        return [Row((sample.image, self.prompt), "", sample.key, sample.key, references)]

    @torch.no_grad()
    def predict(self, model: PrefixLM, batch: Batch) -> list[Prediction]:
        grammar = self.locations.grammar(model.lm, self.prompt, self.classes, self.max_boxes)
        predictions = []
        for part in batch.split(MAX_ROWS):
            texts, logprobs = constrained_greedy_with_logprobs(model, part, [grammar] * len(part.rows))
            for rows, ids, token_logprobs in zip(part.rows, texts, logprobs, strict=True):
                text = f"{SEPARATOR} ".join(self._box_texts(model.lm.tokenizer, ids, token_logprobs))
                predictions += [self.make_prediction(row, text) for row in rows]
        return predictions

    def correct(self, prediction: str, references: Sequence[str]) -> float:
        """Return F1 of the boxes of one image at an IoU of 0.5.

        The most confident boxes are matched first, and each true box once, as in PASCAL VOC and COCO.
        """
        predicted, true = parse_boxes(prediction, confidences=True), parse_boxes(references[0])
        unmatched = [box for box, _ in true]
        num_right = 0
        for box, _ in sorted(predicted, key=lambda each: -each[1]):
            same_label = [each for each in unmatched if each.label == box.label]
            best = max(same_label, key=lambda each: box_iou(box, each), default=None)
            if best is not None and box_iou(box, best) >= 0.5:
                unmatched.remove(best)
                num_right += 1
        return 2 * num_right / (len(predicted) + len(true)) if predicted or true else 1.0

    def scores(self, predictions: Sequence[Prediction]) -> dict[str, Score]:
        """Return the mean F1 of images and COCO's mean average precision and recall over all images, in percent."""
        predicted = [parse_boxes(p.prediction, confidences=True) for p in predictions]
        true = [[box for box, _ in parse_boxes(p.references[0])] for p in predictions]
        values = mean_average_precision(
            [[(box.label, box.edges, confidence) for box, confidence in boxes] for boxes in predicted],
            [[(box.label, box.edges) for box in boxes] for boxes in true],
            self.classes,
        )
        return super().scores(predictions) | {name: Score(value, predictions) for name, value in values.items()}

    def format(self, prediction: Prediction, size: tuple[int, int], asked: str = "") -> str:
        return "; ".join(format_pixels(box, size, sure) for box, sure in self.boxes(prediction)) or "(nothing)"

    def boxes(self, prediction: Prediction) -> list[FoundBox]:
        return [*parse_boxes(prediction.prediction, confidences=True)]

    def details(self, prediction: Prediction) -> dict[str, Any]:
        true = [box for text in prediction.references for box, _ in parse_boxes(text)]
        return {
            "boxes": [box_data(box, confidence) for box, confidence in self.boxes(prediction)],
            "true_boxes": [box_data(box) for box in true],
        }

    def _box_texts(self, tokenizer: Any, ids: Sequence[int], logprobs: Sequence[float]) -> list[str]:
        """Return the boxes of generated ids, each with the confidence of its tokens."""
        texts, start = [], 0
        # Decode prefixes, not single tokens, because some tokenizers drop the space of a token that is decoded alone.
        prefixes = [tokenizer.decode(ids[: length + 1]) for length in range(len(ids))]
        ends = [place for place, text in enumerate(prefixes) if text.endswith(SEPARATOR)]
        for end in [*ends, len(ids)] if ids else []:
            text = tokenizer.decode(ids[start:end]).strip()
            if text and (box := self.locations.box(text)):
                texts.append(format_box(box, confidence(logprobs[start:end])))
            start = end + 1
        return texts

    def _label(self, sample: Sample, box: Box) -> str:
        if box.label not in self.classes:
            raise ValueError(f"sample {sample.key!r} has a box of {box.label!r}; add it to task.detection.classes")
        return box.label
