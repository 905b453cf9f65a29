"""Classification by likelihood: an image goes in, the class whose name the language model finds likeliest comes out."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prefixvlm.batch import Batch, Row
from prefixvlm.data.sample import Sample
from prefixvlm.metrics.classification import class_averages, class_report, confusion_matrix, roc_auc, top_k_accuracy
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.task.choosing import likelihoods
from prefixvlm.task.interface import Task
from prefixvlm.task.prediction import Prediction, Score, group_names, mean, whole


class Classification(Task):
    """The image, then a prompt, then the name of its class.

    classes: all of them. label: which of a sample's labels is meant; samples without it are predicted, not scored.
    prompts: several are an ensemble: a class's score is its mean log-likelihood after each of them.
    normalize_length: the mean over a name's tokens, not the sum.
    """

    name = "classification"
    main_score = "accuracy"
    variant = "likelihood_ranking"

    def __init__(
        self,
        classes: Sequence[str],
        label: str = "label",
        prompts: Sequence[str] = ("This is a",),
        normalize_length: bool = False,
    ) -> None:
        super().__init__()
        if not classes or len(set(classes)) < 2 or len(set(classes)) < len(classes):
            raise ValueError(f"task.classification.classes is {classes!r}; give two or more, each once")
        if wrong := [name for name in classes if not isinstance(name, str)]:
            raise ValueError(f"task.classification.classes has {wrong[0]!r}, which is no text; put it in quotes")
        if not prompts:
            raise ValueError("task.classification.prompts is empty; give one or more")
        self.classes, self.label, self.prompts = list(classes), label, list(prompts)
        self.prompt = " | ".join(self.prompts)
        self.normalize_length = normalize_length
        self.decoding = {"method": "ranking", "classes": len(self.classes), "prompts": len(self.prompts),
                         "normalize_length": normalize_length}  # fmt: skip

    def training_rows(self, sample: Sample, rng: random.Random) -> list[Row]:
        label = self._label(sample)
        return [Row((sample.image, rng.choice(self.prompts)), " " + label, sample.key)] if label else []

    def prompt_rows(self, sample: Sample) -> list[Row]:
        label = self._label(sample)
        references, groups = (label,) if label else (), group_names(sample.groups)
        return [
            Row((sample.image, prompt), "", sample.key, sample.key, references, groups=groups)
            for prompt in self.prompts
        ]  # fmt: skip

    def correct(self, prediction: str, references: Sequence[str]) -> float:
        return float(prediction in references)

    def predict(self, model: PrefixLM, batch: Batch) -> list[Prediction]:
        """One for each image; values: each class's log-likelihood."""
        scores: dict[str, list[torch.Tensor]] = {}
        rows: dict[str, Row] = {}
        found = torch.empty(len(batch.rows), len(self.classes))
        for prompt in self.prompts:  # the names are tokenized as they go on from it
            mine = [number for number, group in enumerate(batch.rows) if group[0].text == prompt]
            found[mine] = likelihoods(model, batch.of(mine), self.classes, prompt, self.normalize_length)
        for row_scores, group in zip(found, batch.rows, strict=True):
            for row in group:
                scores.setdefault(row.id, []).append(row_scores)
                rows[row.id] = row
        means = {id: torch.stack(each).mean(0).tolist() for id, each in scores.items()}
        return [self.judged(rows[id], self.classes[values.index(max(values))], values) for id, values in means.items()]

    def scores(self, predictions: Sequence[Prediction]) -> dict[str, Score]:
        """In percent: accuracy, top 5, the averages over classes; with two classes the area under the ROC curve."""
        place = {name: number for number, name in enumerate(self.classes)}
        values = np.array([p.values for p in predictions])
        truths = np.array([place[p.references[0]] for p in predictions])
        guesses = np.array([place[p.prediction] for p in predictions])
        scores = super().scores(predictions)
        if len(self.classes) > 5:
            top = [top_k_accuracy([row], [truth], 5) for row, truth in zip(values, truths, strict=True)]
            scores["accuracy_top_5"] = mean(predictions, top)
        scores |= whole(predictions, lambda draw: class_averages(guesses[draw], truths[draw]))
        if len(self.classes) == 2 and len(set(truths.tolist())) == 2:
            second = values[:, 1] - values[:, 0]
            scores |= whole(predictions, lambda draw: {"roc_auc": _roc_auc(truths[draw], second[draw])})
        return scores

    def report(self, predictions: Sequence[Prediction]) -> dict[str, Any]:
        """Also `classes` (precision, recall, F1, support of each, and averages) and `confusion`."""
        known = [p for p in predictions if p.references]
        if not known:
            return super().report(predictions)
        guesses, truths = [p.prediction for p in known], [p.references[0] for p in known]
        found = class_report(guesses, truths)
        labels, counts = confusion_matrix(guesses, truths)
        return super().report(predictions) | {
            "classes": {**found.classes, "averages": found.averages},
            "confusion": {"labels": labels, "counts": counts},
        }

    def _label(self, sample: Sample) -> str:
        label = sample.labels.get(self.label, "")
        if label and label not in self.classes:
            raise ValueError(f"sample {sample.key!r} is of class {label!r}; add it to task.classification.classes")
        return label


def _roc_auc(truths: NDArray[Any], scores: NDArray[Any]) -> float:
    """In percent; NaN for a draw of one class only."""
    return 100 * roc_auc((truths == 1).tolist(), scores.tolist()) if 0 < truths.sum() < len(truths) else float("nan")
