"""Image classification by a trained head, with one class or several classes per image."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from prefixvlm.batch import Row
from prefixvlm.data.sample import Sample
from prefixvlm.metrics.sets import Thing, set_report
from prefixvlm.options.ranges import BelowOne, Size
from prefixvlm.task.head import HeadTask
from prefixvlm.task.results.class_scores import AVERAGES, CLASS_KINDS, check_classes, class_details, class_scores
from prefixvlm.task.results.prediction import Prediction, Score, corpus_score, group_names

SEPARATOR = ", "


class ClassificationHead(HeadTask):
    """Classifies an image by a head on the hidden states of the image and the prompt.

    The loss is cross entropy, binary for two classes or with multi_label.
    classes: names of all classes.
    label: key of the class in a sample's `labels` or, with multi_label, of its classes in `label_sets`.
    multi_label: predict every class with a probability of at least 0.5.
    class_weights: weights in the loss by class; 1 for classes without one.
    """

    name = "classification"
    main_score = "accuracy"
    score_kinds = CLASS_KINDS
    variant = "head"
    head_options = ("classes", "multi_label", *HeadTask.head_options)

    def __init__(
        self,
        classes: Sequence[str],
        label: str = "label",
        multi_label: bool = False,
        class_weights: Mapping[str, float] | None = None,
        prompt: str = "",
        hidden_width: Size | None = None,
        dropout: BelowOne = 0.0,
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
        """Return one row. Samples without the label have no targets and no references."""
        true = self._true_classes(sample)
        references, targets = [], list[float]()
        if true is not None:
            references = [SEPARATOR.join(sorted(set(true)) if self.multi_label else true)]
            is_true = [float(name in true) for name in self.classes]
            targets = is_true if self.multi_label else [float(is_true.index(1.0))]
        groups = group_names(sample.groups)
        return [
            Row(
                (sample.image, self.prompt), "", sample.key, sample.key, tuple(references), groups=groups,
                head_targets=tuple(targets),
            )
        ]  # fmt: skip

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        """Return the cross entropy of each row, with the weight of its class or, with multi_label, its positives."""
        # The caller's mean is over rows. torch's own weighted mean would divide by the sum of the weights, so that the
        # scale of the loss would depend on the classes in the batch.
        weights = self.weights.to(outputs.device)
        smooth = targets * (1 - smoothing) + smoothing / 2  # over the two outcomes of each class
        if self.multi_label:
            each = F.binary_cross_entropy_with_logits(outputs, smooth, pos_weight=weights, reduction="none")
            return each.mean(1)
        truth = targets[:, 0].long()
        if self.binary:
            each = F.binary_cross_entropy_with_logits(outputs[:, 0], smooth[:, 0], reduction="none")
        else:
            each = F.cross_entropy(outputs, truth, reduction="none", label_smoothing=smoothing)
        return each * weights[truth]

    def to_prediction(self, row: Row, outputs: list[float]) -> Prediction:
        """Return the prediction of a row. values: the logit of each class."""
        if self.multi_label:
            predicted = sorted(name for name, logit in zip(self.classes, outputs, strict=True) if logit >= 0)
            return self.make_prediction(row, SEPARATOR.join(predicted), outputs)
        # sigmoid(z) is the softmax of (0, z), so two classes are scored like more.
        logits = [0.0, *outputs] if self.binary else outputs
        return self.make_prediction(row, self.classes[logits.index(max(logits))], logits)

    def scores(self, predictions: Sequence[Prediction]) -> dict[str, Score]:
        """Return accuracy (with multi_label, of the whole set of classes) and averages over classes, in percent."""
        scores = super().scores(predictions)
        if not self.multi_label:
            return scores | class_scores(self.classes, predictions)
        predicted, true = _label_sets(predictions)

        def averages(draw: Any) -> dict[str, float]:
            report = set_report([predicted[i] for i in draw], [true[i] for i in draw])
            return {
                f"{average}_{name}": 100 * values[name]
                for average, values in report.averages.items()
                for name in ("precision", "recall", "f1")
            }

        return scores | corpus_score(predictions, averages)

    def report(self, predictions: Sequence[Prediction], *args: Any) -> dict[str, Any]:
        """Add `classes` and, without multi_label, `confusion` to the report; see class_details."""
        report = super().report(predictions, *args)
        if not self.multi_label:
            return report | class_details(predictions)
        sets = set_report(*_label_sets([p for p in predictions if p.references]))
        return report | {"classes": {**sets.classes, AVERAGES: sets.averages}}

    def format(self, prediction: Prediction, size: tuple[int, int], asked: str = "") -> str:
        """Return the class with its probability, as "circle 0.912"; with multi_label all from 0.5 on."""
        shares = self.probabilities(prediction)
        if not self.multi_label:
            return f"{prediction.prediction} {max(shares.values()):.3f}"
        return ", ".join(f"{name} {share:.3f}" for name, share in shares.items() if share >= 0.5) or "(none)"

    def probabilities(self, prediction: Prediction) -> dict[str, float]:
        """Return the probability of each class; with multi_label they do not sum to 1."""
        logits = torch.tensor(prediction.values)
        shares = logits.sigmoid() if self.multi_label else logits.softmax(0)
        return dict(zip(self.classes, shares.tolist(), strict=True))

    def _true_classes(self, sample: Sample) -> list[str] | None:
        """Return the classes of a sample, None if it has no such label. Raises ValueError for an unknown class."""
        if self.multi_label:
            true = list(sample.label_sets[self.label]) if self.label in sample.label_sets else None
        else:
            true = [sample.labels[self.label]] if self.label in sample.labels else None
        for name in true or ():
            if name not in self.classes:
                raise ValueError(f"sample {sample.key!r} is of class {name!r}; add it to task.classification.classes")
        return true


def _label_sets(predictions: Sequence[Prediction]) -> tuple[list[set[Thing]], list[set[Thing]]]:
    """Return the predicted and the true classes of each item."""
    return [_label_set(p.prediction) for p in predictions], [_label_set(p.references[0]) for p in predictions]


def _label_set(text: str) -> set[Thing]:
    return {(name, "") for name in text.split(SEPARATOR) if name}
