"""Classification by a head: an image goes in, its class, or all classes that are true of it, come out."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from prefixvlm.batch import Row
from prefixvlm.data.sample import Sample
from prefixvlm.metrics.sets import Thing, set_report
from prefixvlm.task.head import HeadTask
from prefixvlm.task.results.class_scores import AVERAGES, check_classes, class_details, class_scores
from prefixvlm.task.results.prediction import Prediction, Score, corpus_score, group_names

SEPARATOR = ", "


class ClassificationHead(HeadTask):
    """The image, then the prompt; a head says the class.

    classes: all of them. label: which of a sample's `labels` is meant or, with multi_label, of its `label_sets`.
    Two classes are one number and binary cross entropy, more are softmax; with multi_label each class is true or not,
    from a probability of a half on. class_weights: in the loss, by name; 1 for those that are not named.
    """

    name = "classification"
    main_score = "accuracy"
    variant = "head"
    head_options = ("classes", "multi_label", *HeadTask.head_options)

    def __init__(
        self,
        classes: Sequence[str],
        label: str = "label",
        multi_label: bool = False,
        class_weights: Mapping[str, float] | None = None,
        prompt: str = "",
        hidden_width: int | None = None,
        dropout: float = 0.0,
        pooling: str = "last",
    ) -> None:
        super().__init__(prompt, hidden_width, dropout, pooling)
        check_classes("task.classification", classes)
        if joined := [name for name in classes if SEPARATOR in name and multi_label]:
            raise ValueError(f"task.classification.classes has {joined[0]!r}; with multi_label none may have a comma")
        if unknown := set(class_weights or ()) - set(classes):
            raise ValueError(f"task.classification.class_weights names {min(unknown)!r}, which is none of its classes")
        if wrong := [weight for weight in (class_weights or {}).values() if weight < 0]:
            raise ValueError(f"task.classification.class_weights has {wrong[0]}; a weight is 0 or more")
        self.classes, self.label, self.multi_label = list(classes), label, multi_label
        self.weights = torch.tensor([float((class_weights or {}).get(name, 1)) for name in classes])
        self.binary = len(self.classes) == 2 and not multi_label
        self.num_outputs = 1 if self.binary else len(self.classes)

    def training_rows(self, sample: Sample, rng: random.Random) -> list[Row]:
        return [row for row in self.prompt_rows(sample) if row.head_targets]

    def prompt_rows(self, sample: Sample) -> list[Row]:
        """Samples that do not say are predicted, not scored or trained on."""
        true = self._true(sample)
        known = [] if true is None else [sorted(set(true)) if self.multi_label else true]
        values: list[float] = []
        if true is not None:
            places = [float(name in true) for name in self.classes]
            values = places if self.multi_label else [float(places.index(1.0))]
        return [
            Row(
                (sample.image, self.prompt),
                "",
                sample.key,
                sample.key,
                tuple(SEPARATOR.join(names) for names in known),
                groups=group_names(sample.groups),
                head_targets=tuple(values),
            )
        ]

    def loss(self, outputs: Tensor, values: Tensor, smoothing: float) -> Tensor:
        """A weight is of the items of its class; with multi_label, of its positives. The mean is over items."""
        weights = self.weights.to(outputs.device)
        smooth = values * (1 - smoothing) + smoothing / 2  # of what is true or not
        if self.multi_label:
            each = F.binary_cross_entropy_with_logits(outputs, smooth, pos_weight=weights, reduction="none")
            return each.mean(1)
        truth = values[:, 0].long()
        if self.binary:
            each = F.binary_cross_entropy_with_logits(outputs[:, 0], smooth[:, 0], reduction="none")
        else:
            each = F.cross_entropy(outputs, truth, reduction="none", label_smoothing=smoothing)
        return each * weights[truth]

    def read(self, row: Row, numbers: list[float]) -> Prediction:
        """values: what the head said of each class."""
        if self.multi_label:
            said = sorted(name for name, number in zip(self.classes, numbers, strict=True) if number >= 0)
            return self.make_prediction(row, SEPARATOR.join(said), numbers)
        scores = [0.0, *numbers] if self.binary else numbers
        return self.make_prediction(row, self.classes[scores.index(max(scores))], scores)

    def correct(self, prediction: str, references: Sequence[str]) -> float:
        return float(prediction in references)

    def scores(self, predictions: Sequence[Prediction]) -> dict[str, Score]:
        """In percent: accuracy (of the whole set of classes, with multi_label) and averages over classes."""
        scores = super().scores(predictions)
        if not self.multi_label:
            return scores | class_scores(self.classes, predictions)
        said, true = _sets(predictions)

        def over(draw: Any) -> dict[str, float]:
            averages = set_report([said[i] for i in draw], [true[i] for i in draw]).averages
            return {
                f"{kind}_{name}": 100 * found[name]
                for kind, found in averages.items()
                for name in ("precision", "recall", "f1")
            }

        return scores | corpus_score(predictions, over)

    def report(self, predictions: Sequence[Prediction]) -> dict[str, Any]:
        """Also `classes` (precision, recall, F1, support of each, and averages) and, of single classes, `confusion`."""
        report = super().report(predictions)
        if not self.multi_label:
            return report | class_details(predictions)
        found = set_report(*_sets([p for p in predictions if p.references]))
        return report | {"classes": {**found.classes, AVERAGES: found.averages}}

    def _true(self, sample: Sample) -> list[str] | None:
        """The sample's classes, None where it does not say. Raises ValueError for one that is not known."""
        single = [sample.labels[self.label]] if self.label in sample.labels else None
        true = list(sample.label_sets[self.label]) if self.label in sample.label_sets else None
        found = true if self.multi_label else single
        for name in found or ():
            if name not in self.classes:
                raise ValueError(f"sample {sample.key!r} is of class {name!r}; add it to task.classification.classes")
        return found


def _sets(predictions: Sequence[Prediction]) -> tuple[list[set[Thing]], list[set[Thing]]]:
    """The classes said and true of each item, each as a thing of its own label."""
    return [_set(p.prediction) for p in predictions], [_set(p.references[0]) for p in predictions]


def _set(text: str) -> set[Thing]:
    return {(name, "") for name in text.split(SEPARATOR) if name}
