"""Detection: an image goes in, text with a label and a box for each thing in it comes out; scored as COCO does."""

import random
from collections.abc import Sequence
from typing import Any

import torch

from prefixvlm.batch import AssistantTurn, Batch, Row
from prefixvlm.data.sample import Sample
from prefixvlm.data.schema import Box
from prefixvlm.lm.interface import LanguageModel
from prefixvlm.metrics.detection import mean_average_precision
from prefixvlm.model.constrained import constrained_greedy_with_logprobs
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.task.interface import MAX_ROWS, Task
from prefixvlm.task.results.boxes import SEPARATOR, Locations, box_iou, confidence, format_box, parse_boxes
from prefixvlm.task.results.class_scores import check_classes
from prefixvlm.task.results.prediction import Prediction, Score


class Detection(Task):
    """The image, then the prompt, then " circle 06 12 49 88; ..." under a grammar (as Pix2Seq, Chen et al. 2022).

    classes: all labels. max_boxes: more are not said, and in training so many are drawn. Boxes come in any order: in
    training a random one. bins: places of an edge.
    """

    name = "detection"
    main_score = "f1_50"
    variant = "COCO mAP by torchmetrics and pycocotools; a box's confidence is its tokens' geometric mean"

    def __init__(
        self, classes: Sequence[str], prompt: str = "Things and where they are:", max_boxes: int = 10, bins: int = 100
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
        depth = self.locations.grammar(lm, self.prompt, self.classes, self.max_boxes).depth
        if max_target_length is not None and depth > max_target_length:
            raise ValueError(
                f"{self.max_boxes} boxes take up to {depth} tokens; module.max_target_length is {max_target_length}: "
                "set task.detection.max_boxes lower, or that higher"
            )

    def training_rows(self, sample: Sample, rng: random.Random) -> list[Row]:
        if sample.boxes is None:
            return []
        boxes = rng.sample(sample.boxes, min(len(sample.boxes), self.max_boxes))
        target = SEPARATOR.join(f" {self._label(sample, box)}{self.locations.text(box)}" for box in boxes)
        return [Row((sample.image, self.prompt), target or AssistantTurn(), sample.key)]

    def prompt_rows(self, sample: Sample) -> list[Row]:
        """Samples that do not say are predicted, not scored or trained on; one with no box has nothing in it."""
        for box in sample.boxes or ():
            self._label(sample, box)
        known = [] if sample.boxes is None else [sample.boxes]
        truths = tuple(f"{SEPARATOR} ".join(map(format_box, boxes)) for boxes in known)
        return [Row((sample.image, self.prompt), "", sample.key, sample.key, truths)]

    @torch.no_grad()
    def predict(self, model: PrefixLM, batch: Batch) -> list[Prediction]:
        grammar = self.locations.grammar(model.lm, self.prompt, self.classes, self.max_boxes)
        predictions = []
        for part in batch.split(MAX_ROWS):
            said = constrained_greedy_with_logprobs(model, part, [grammar] * len(part.rows))
            for rows, ids, sure in zip(part.rows, *said, strict=True):
                text = f"{SEPARATOR} ".join(self._boxes(model.lm.tokenizer, ids, sure))
                predictions += [self.make_prediction(row, text) for row in rows]
        return predictions

    def correct(self, prediction: str, references: Sequence[str]) -> float:
        """F1 of one image's boxes: right are those of the same label that overlap by a half, each truth once."""
        said, true = parse_boxes(prediction, confidences=True), parse_boxes(references[0])
        left = [box for box, _ in true]
        right = 0
        for box, _ in sorted(said, key=lambda each: -each[1]):
            best = max((each for each in left if each.label == box.label), key=lambda e: box_iou(box, e), default=None)
            if best is not None and box_iou(box, best) >= 0.5:
                left.remove(best)
                right += 1
        return 2 * right / (len(said) + len(true)) if said or true else 1.0

    def scores(self, predictions: Sequence[Prediction]) -> dict[str, Score]:
        """In percent: F1 of an image's boxes; COCO's mean average precision and recall over all."""
        said = [parse_boxes(p.prediction, confidences=True) for p in predictions]
        true = [[box for box, _ in parse_boxes(p.references[0])] for p in predictions]
        found = mean_average_precision(
            [[(box.label, box.edges, sure) for box, sure in boxes] for boxes in said],
            [[(box.label, box.edges) for box in boxes] for boxes in true],
            self.classes,
        )
        return super().scores(predictions) | {name: Score(value, predictions) for name, value in found.items()}

    def report(self, predictions: Sequence[Prediction]) -> dict[str, Any]:
        return super().report(predictions) | {"shown_as": "boxes"}

    def _boxes(self, tokenizer: Any, ids: Sequence[int], sure: Sequence[float]) -> list[str]:
        """The boxes in what was said, each with its tokens' confidence."""
        found, start = [], 0
        texts = [tokenizer.decode(ids[: place + 1]) for place in range(len(ids))]
        ends = [place for place, text in enumerate(texts) if text.endswith(SEPARATOR)]
        for end in [*ends, len(ids)] if ids else []:
            text = tokenizer.decode(ids[start:end]).strip()
            if text and (box := self.locations.box(text)):
                found.append(format_box(box, confidence(sure[start:end])))
            start = end + 1
        return found

    def _label(self, sample: Sample, box: Box) -> str:
        if box.label not in self.classes:
            raise ValueError(f"sample {sample.key!r} has a box of {box.label!r}; add it to task.detection.classes")
        return box.label
