"""Image classification by the likelihood of the class names as text after the prompt."""

import random
from collections.abc import Sequence
from typing import Any

import torch

from prefixvlm.batch import Batch, Row
from prefixvlm.data.sample import Sample
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.task.interface import Task
from prefixvlm.task.results.class_scores import CLASS_KINDS, check_classes, class_details, class_scores
from prefixvlm.task.results.prediction import Prediction, Score, group_names
from prefixvlm.task.rows.closed_set import likelihoods


class Classification(Task):
    """Ranks the classes: the image, then a prompt, then the name of the class.

    classes: names of all classes.
    label: key of the class in a sample's labels. Samples without it are predicted, but not scored.
    prompts: an ensemble, if there are several; the score of a class is its mean log-likelihood over them.
    normalize_length: use the mean over the tokens of a name instead of the sum.
    """

    name = "classification"
    main_score = "accuracy"
    score_kinds = CLASS_KINDS
    variant = "likelihood_ranking"

    def __init__(
        self,
        classes: Sequence[str],
        label: str = "label",
        prompts: Sequence[str] = ("This is a",),
        normalize_length: bool = False,
    ) -> None:
        super().__init__()
        check_classes("task.classification", classes)
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

    def predict(self, model: PrefixLM, batch: Batch) -> list[Prediction]:
        """Return one prediction for each image. values: log-likelihood of each class."""
        scores: dict[str, list[torch.Tensor]] = {}
        rows: dict[str, Row] = {}
        log_likelihoods = torch.empty(len(batch.rows), len(self.classes))
        for prompt in self.prompts:  # the tokenization of a name depends on the prompt before it
            rows_of_prompt = [number for number, group in enumerate(batch.rows) if group[0].text == prompt]
            log_likelihoods[rows_of_prompt] = likelihoods(
                model, batch.of(rows_of_prompt), self.classes, prompt, self.normalize_length
            )
        for row_scores, group in zip(log_likelihoods, batch.rows, strict=True):
            for row in group:
                scores.setdefault(row.id, []).append(row_scores)
                rows[row.id] = row
        # The mean of log-likelihoods makes the ensemble a product: a class must fit every prompt.
        means = {id: torch.stack(each).mean(0).tolist() for id, each in scores.items()}
        return [
            self.make_prediction(rows[id], self.classes[values.index(max(values))], values)
            for id, values in means.items()
        ]

    def probabilities(self, prediction: Prediction) -> dict[str, float]:
        """Return the probability of each class among the classes: the softmax of their log-likelihoods."""
        return dict(zip(self.classes, torch.tensor(prediction.values).softmax(0).tolist(), strict=True))

    def scores(self, predictions: Sequence[Prediction]) -> dict[str, Score]:
        """Return accuracy, top 5 and averages over classes, in percent; for two classes also the area under the ROC."""
        return super().scores(predictions) | class_scores(self.classes, predictions)

    def report(self, predictions: Sequence[Prediction], *args: Any) -> dict[str, Any]:
        """Add `classes` and `confusion` to the report; see class_details."""
        return super().report(predictions, *args) | class_details(predictions)

    def _label(self, sample: Sample) -> str:
        label = sample.labels.get(self.label, "")
        if label and label not in self.classes:
            raise ValueError(f"sample {sample.key!r} is of class {label!r}; add it to task.classification.classes")
        return label
