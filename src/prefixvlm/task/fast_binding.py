"""Fast binding: name an image with words that the prompt introduces (Frozen's open-ended miniImageNet)."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prefixvlm.batch import Batch, Row
from prefixvlm.data.sample import Sample
from prefixvlm.metrics.score_kind import PERCENT
from prefixvlm.model.generation import generate_ids
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.options.ranges import NonNegative
from prefixvlm.task.interface import MAX_ROWS, Task
from prefixvlm.task.results.prediction import Prediction, Score, group_names, item_mean_score
from prefixvlm.task.rows.closed_set import likelihoods_of_rows


class FastBinding(Task):
    """Names an image: the images of the support, each with its text, then the query image and the prompt.

    An answer is correct only if it is the name, followed by EOS. Decoding is not constrained to the names: `named_one`
    is the percentage of answers that begin with any of them, and `ranking` the accuracy of the likeliest name.
    `calibrated` is that of the name which becomes likelier by the query image than by the images of the support.
    induction: sentence before the support; {names} becomes the names, as "dax or blicket". "" leaves it out.
    repeats: number of times that the whole support is repeated.
    calibrate: add `calibrated`: the mean log-likelihood of a name in prompts that ask for the images of the support
        instead is subtracted. What makes a name likelier for every image then cancels: the name itself, and its place
        (Zhao et al. 2021, with the examples as content-free inputs). Takes a further prompt for each of these images.
    """

    name = "fast_binding"
    variant = "exact_name_then_eos"
    main_score = "accuracy"
    score_kinds = dict.fromkeys(("accuracy", "named_one", "ranking", "calibrated"), PERCENT)
    takes = ""

    def __init__(
        self,
        prompt: str = " Question: {question} Answer: This is a",
        induction: str = "Answer with {names}.",
        repeats: NonNegative = 0,
        separator: str = " ",
        calibrate: bool = False,
        decoding: dict[str, Any] | None = None,
    ) -> None:
        super().__init__({"max_new_tokens": 16, **(decoding or {}), "stop": []})  # text after a name is an error
        if repeats < 0:
            raise ValueError(f"task.fast_binding.repeats is {repeats}; set it to 0 or more")
        self.prompt, self.induction, self.repeats, self.separator = prompt, induction, repeats, separator
        self.calibrate = calibrate

    def prompt_rows(self, sample: Sample) -> list[Row]:
        if not sample.support or not sample.questions or not all(each.choices for each in sample.questions):
            raise ValueError(f"sample {sample.key!r} is no episode: it needs a support and a question with its choices")
        parts: list[Any] = []
        for image, text in sample.support * (1 + self.repeats):
            parts += [image, self.separator + text + self.separator]
        rows = []
        for question in sample.questions:
            induction = self.induction.replace("{names}", " or ".join(question.choices))
            context = (induction + self.separator, *parts) if induction else tuple(parts)
            prompt = self.prompt.replace("{question}", question.question)
            rows.append(
                Row((sample.image, prompt), "", sample.key, question.id, question.answers, question.choices,
                    group_names(question.groups), context)
            )  # fmt: skip
        return rows

    def predict(self, model: PrefixLM, batch: Batch) -> list[Prediction]:
        """Return predictions.

        values: 1 if the answer begins with any name; 1 if the likeliest name is right; 1 if the answer ended; the place
        of the likeliest name among the choices, and that of the right one, or -1; with `calibrate` the place of the
        name that is likeliest relative to the support.
        """
        predictions = []
        for part in batch.split(MAX_ROWS):
            generated = generate_ids(model, part, self.decoding)
            choices = [rows[0].choices for rows in part.rows]
            rankings = [likelihoods_of_rows(model, part, choices, self.prompt)]
            if self.calibrate:
                shown = self._means_over_support(model, part)
                rankings.append([one - other for one, other in zip(rankings[0], shown, strict=True)])
            for number, (rows, ids) in enumerate(zip(part.rows, generated, strict=True)):
                text = str(model.lm.tokenizer.decode(ids)).removeprefix(" ")
                ended = len(ids) < self.decoding["max_new_tokens"]  # EOS itself is not among the ids
                best = [int(scores[number].argmax()) for scores in rankings]
                for row in rows:
                    right = [place for place, choice in enumerate(row.choices) if choice in row.references]
                    place = best[0]
                    values = [_begins_with(text, row.choices), row.choices[place] in row.references, ended, place,
                              *(right[:1] or [-1]), *best[1:]]  # fmt: skip
                    predictions.append(self.make_prediction(row, text, [float(value) for value in values], ended))
        return predictions

    def shuffle_group(self, prediction: Prediction) -> Hashable:
        """Return the whole text, because an answer says nothing where other names stand."""
        return prediction.context, prediction.prompt

    def with_output(self, prediction: Prediction, other: Prediction) -> Prediction:
        named, _, ended, likeliest_place, _, *calibrated = other.values or [0.0] * 5
        given, place = super().with_output(prediction, other), (prediction.values or [0.0] * 5)[4]
        values = [named, float(likeliest_place == place), ended, likeliest_place, place, *calibrated]
        return replace(given, values=values, correct=None if given.correct is None else ended * given.correct)

    def _means_over_support(self, model: PrefixLM, batch: Batch) -> list[Tensor]:
        """Return the mean log-likelihood of each name of each row, if the row asks for the images of its support."""
        # Each image once, also if the support is repeated.
        asked = [
            (row, run.tolist().index(image))
            for row, run in enumerate(batch.runs_of_rows())
            for image in run[:-1].unique().tolist()
        ]
        others = batch.of([row for row, _ in asked])
        runs = [torch.cat([run[:-1], run[at, None]]) for run, (_, at) in zip(others.runs_of_rows(), asked, strict=True)]
        others = replace(others, image_index=torch.cat(runs))
        choices = [batch.rows[row][0].choices for row, _ in asked]
        values: list[list[Tensor]] = [[] for _ in batch.rows]
        for (row, _), each in zip(asked, likelihoods_of_rows(model, others, choices, self.prompt), strict=True):
            values[row].append(each)
        return [torch.stack(each).mean(0) for each in values]

    def scores(self, predictions: Sequence[Prediction]) -> dict[str, Score]:
        """Return the scores in percent. Chance of `ranking` and `calibrated` is one over the number of names."""
        scores = super().scores(predictions)
        values = [p.values for p in predictions if p.values]
        for number, name in enumerate(("named_one", "ranking")):
            scores[name] = item_mean_score(predictions, [100 * each[number] for each in values])
        if self.calibrate:
            scores["calibrated"] = item_mean_score(predictions, [100.0 * (each[5] == each[4]) for each in values])
        return scores


def _begins_with(text: str, names: Sequence[str]) -> bool:
    """Whether a text begins with a name as a whole word: "daxter" does not begin with "dax"."""
    return any(text.startswith(name) and not text[len(name) : len(name) + 1].isalnum() for name in names)
