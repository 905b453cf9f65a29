"""Tagging of words by a head, with or without an image, scored per word and per span."""

import random
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prefixvlm.batch import IGNORE_INDEX, Batch, Row
from prefixvlm.data.sample import Sample
from prefixvlm.data.schema import BIO, Tagged
from prefixvlm.metrics.classification import class_report, confusion_matrix
from prefixvlm.metrics.score_kind import PERCENT
from prefixvlm.metrics.sets import set_report, spans
from prefixvlm.model.head import Outputs, TokenHead
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.options.ranges import BelowOne, Size
from prefixvlm.task.head import HeadTask
from prefixvlm.task.interface import MAX_ROWS
from prefixvlm.task.results.prediction import Prediction, Score, corpus_score, item_mean_score


class Tagging(HeadTask):
    """Tags words by a head on the hidden state of each word's last token, after the image and the prompt.

    tags: all tags in the BIO scheme, with O. with_image: False to tag the text alone.
    With a causal language model the hidden state of a word depends only on the words before it.
    """

    name = "tagging"
    main_score = "accuracy"
    variant = "head; spans as CoNLL 2000 counts them"
    head_options = ("tags", "hidden_width")
    covers_every_sample = False  # an image without a text has no rows
    score_kinds = dict.fromkeys(("accuracy", "span_precision", "span_recall", "span_f1"), PERCENT)
    takes = "text"
    shown_as = "tags"

    def __init__(
        self,
        tags: Sequence[str],
        with_image: bool = True,
        prompt: str = "",
        hidden_width: Size | None = None,
        dropout: BelowOne = 0.0,
    ) -> None:
        super().__init__(prompt, hidden_width, dropout)
        if "O" not in tags or len(set(tags)) < len(tags) or not all(map(BIO.fullmatch, tags)):
            raise ValueError(
                f"task.tagging.tags is {list(tags)!r}; give O, B-NAME and I-NAME, each once, without spaces"
            )
        self.tags, self.with_image = list(tags), with_image
        self.reads_image = with_image
        self.num_outputs = len(self.tags)
        self.decoding = {"method": "head"}

    def head(self, state_width: int, lm_width: int, feature_width: int) -> nn.Module:
        return TokenHead(Outputs(state_width, self.num_outputs, self.hidden_width, self.dropout))

    def training_rows(self, sample: Sample, rng: random.Random) -> list[Row]:
        return self.prompt_rows(sample)

    def prompt_rows(self, sample: Sample) -> list[Row]:
        return [self._row(sample, number, text) for number, text in enumerate(sample.tagged) if text.words]

    def request(self, key: str, image: Any, texts: Sequence[str] = (), answers: Sequence[str] = ()) -> Sample:
        words = tuple(" ".join(texts).split())
        # Any tag will do: predict counts the words of a row by their tags.
        return Sample(key, image, tagged=(Tagged(words, ("O",) * len(words)),))

    def losses(self, model: PrefixLM, batch: Batch) -> Tensor:
        """Return the cross entropy of each word: float32[number of words]."""
        assert batch.tags is not None, "every row of this task has tags"
        outputs = model.heads[self.name](model, batch)
        tags = batch.tags[batch.tags != IGNORE_INDEX]
        return F.cross_entropy(outputs, tags, reduction="none", label_smoothing=model.smoothing)

    @torch.no_grad()
    def predict(self, model: PrefixLM, batch: Batch) -> list[Prediction]:
        predictions = []
        for part in batch.split(MAX_ROWS):
            assert part.tags is not None, "every row of this task has tags"
            num_words = (part.tags != IGNORE_INDEX).sum(1).tolist()
            tag_ids = model.heads[self.name](model, part).argmax(-1).split(num_words)
            for rows, ids in zip(part.rows, tag_ids, strict=True):
                text = " ".join(self.tags[number] for number in ids.tolist())
                predictions += [self.make_prediction(row, text) for row in rows]
        return predictions

    def correct(self, prediction: str, references: Sequence[str]) -> float:
        """Return the share of words with the right tag."""
        pairs = list(zip(prediction.split(), references[0].split(), strict=True))
        return sum(predicted == true for predicted, true in pairs) / len(pairs)

    def shuffle_group(self, prediction: Prediction) -> None:
        """Return None: the tags of another text do not fit its words."""

    def scores(self, predictions: Sequence[Prediction]) -> dict[str, Score]:
        """Return the mean share of right tags in a text, and precision, recall and F1 of spans, in percent."""
        predicted, true = _tags(predictions)
        predicted_spans, true_spans = [spans(tags) for tags in predicted], [spans(tags) for tags in true]

        def span_scores(draw: Any) -> dict[str, float]:
            micro = set_report([predicted_spans[i] for i in draw], [true_spans[i] for i in draw]).averages["micro"]
            return {f"span_{name}": 100 * micro[name] for name in ("precision", "recall", "f1")}

        scores = {"accuracy": item_mean_score(predictions, [100 * (p.correct or 0) for p in predictions])}
        return scores | corpus_score(predictions, span_scores)

    def report(self, predictions: Sequence[Prediction], *args: Any) -> dict[str, Any]:
        """Add `classes` (precision, recall, F1 and support of each tag), `confusion`, and `spans`, by type."""
        predicted, true = _tags(predictions)
        guesses, truths = ([tag for tags in side for tag in tags] for side in (predicted, true))
        report = super().report(predictions, *args)
        if not guesses:
            return report
        tag_report = class_report(guesses, truths)
        span_report = set_report([*map(spans, predicted)], [*map(spans, true)])
        labels, counts = confusion_matrix(guesses, truths, [tag for tag in self.tags if tag in {*guesses, *truths}])
        return report | {
            "classes": {**tag_report.classes, "averages": tag_report.averages},
            "confusion": {"labels": labels, "counts": counts},
            "spans": {**span_report.classes, "averages": span_report.averages},
        }

    def format(self, prediction: Prediction, size: tuple[int, int], asked: str = "") -> str:
        """Return each word with its tag, unless that is O, as "a red/B-SEEN circle/I-SEEN"."""
        pairs = zip(asked.split(), prediction.prediction.split(), strict=True)
        return " ".join(word if tag == "O" else f"{word}/{tag}" for word, tag in pairs)

    def details(self, prediction: Prediction) -> dict[str, Any]:
        """Return each word with its predicted and its true tag."""
        predicted = prediction.prediction.split()
        true = prediction.references[0].split() if prediction.references else predicted
        # The prompt of a prediction ends with the words.
        words = prediction.prompt.split()[-len(predicted) :]
        return {"words": [list(each) for each in zip(words, predicted, true, strict=True)]}

    def _row(self, sample: Sample, number: int, text: Tagged) -> Row:
        if unknown := set(text.tags) - set(self.tags):
            raise ValueError(f"sample {sample.key!r} has the tag {min(unknown)!r}; add it to task.tagging.tags")
        before = ([sample.image] if self.with_image else []) + ([self.prompt] if self.prompt else [])
        words = [(" " if before or place else "") + word for place, word in enumerate(text.words)]
        # Row.tags has an entry for each text of the row, and the prompt is one of them.
        tags = (*[IGNORE_INDEX] * bool(self.prompt), *map(self.tags.index, text.tags))
        return Row((*before, *words), "", sample.key, f"{sample.key}-{number}", (" ".join(text.tags),), tags=tags)


def _tags(predictions: Sequence[Prediction]) -> tuple[list[list[str]], list[list[str]]]:
    """Return the predicted and the true tags of each text."""
    return [p.prediction.split() for p in predictions], [p.references[0].split() for p in predictions]
