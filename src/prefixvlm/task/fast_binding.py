"""Fast binding: name an image with words that the prompt introduces (Frozen's open-ended miniImageNet)."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

from prefixvlm.batch import Batch, Row
from prefixvlm.data.sample import Sample
from prefixvlm.metrics.score_kind import PERCENT
from prefixvlm.model.generation import generate_ids
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.options.ranges import NonNegative
from prefixvlm.task.interface import MAX_ROWS, Task
from prefixvlm.task.results.prediction import Prediction, Score, group_names, item_mean_score
from prefixvlm.task.rows.closed_set import likeliest


class FastBinding(Task):
    """Names an image: the images of the support, each with its text, then the query image and the prompt.

    An answer is correct only if it is the name, followed by EOS. Decoding is not constrained to the names: `named_one`
    is the percentage of answers that begin with any of them, and `ranking` the accuracy of the likeliest name.
    induction: sentence before the support; {names} becomes the names, as "dax or blicket". "" leaves it out.
    repeats: number of times that the whole support is repeated.
    """

    name = "fast_binding"
    variant = "exact_name_then_eos"
    main_score = "accuracy"
    score_kinds = dict.fromkeys(("accuracy", "named_one", "ranking"), PERCENT)
    takes = ""

    def __init__(
        self,
        prompt: str = " Question: {question} Answer: This is a",
        induction: str = "Answer with {names}.",
        repeats: NonNegative = 0,
        separator: str = " ",
        decoding: dict[str, Any] | None = None,
    ) -> None:
        super().__init__({"max_new_tokens": 16, **(decoding or {}), "stop": []})  # text after a name is an error
        if repeats < 0:
            raise ValueError(f"task.fast_binding.repeats is {repeats}; set it to 0 or more")
        self.prompt, self.induction, self.repeats, self.separator = prompt, induction, repeats, separator

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
        of the likeliest name among the choices, and that of the right one, or -1.
        """
        predictions = []
        for part in batch.split(MAX_ROWS):
            generated = generate_ids(model, part, self.decoding)
            best = likeliest(model, part, [rows[0].choices for rows in part.rows], self.prompt)
            for rows, ids, name in zip(part.rows, generated, best, strict=True):
                text = str(model.lm.tokenizer.decode(ids)).removeprefix(" ")
                ended = len(ids) < self.decoding["max_new_tokens"]  # EOS itself is not among the ids
                for row in rows:
                    right = [place for place, choice in enumerate(row.choices) if choice in row.references]
                    values = [_begins_with(text, row.choices), name in row.references, ended, row.choices.index(name),
                              *(right[:1] or [-1])]  # fmt: skip
                    predictions.append(self.make_prediction(row, text, [float(value) for value in values], ended))
        return predictions

    def shuffle_group(self, prediction: Prediction) -> Hashable:
        """Return the whole text, because an answer says nothing where other names stand."""
        return prediction.context, prediction.prompt

    def with_output(self, prediction: Prediction, other: Prediction) -> Prediction:
        named, _, ended, likeliest_place, _ = other.values or [0.0] * 5
        given, place = super().with_output(prediction, other), (prediction.values or [0.0])[-1]
        values = [named, float(likeliest_place == place), ended, likeliest_place, place]
        return replace(given, values=values, correct=None if given.correct is None else ended * given.correct)

    def scores(self, predictions: Sequence[Prediction]) -> dict[str, Score]:
        """Return the scores in percent. Chance level of `ranking` is one over the number of names."""
        scores = super().scores(predictions)
        for number, name in enumerate(("named_one", "ranking")):
            scores[name] = item_mean_score(predictions, [100 * p.values[number] for p in predictions if p.values])
        return scores


def _begins_with(text: str, names: Sequence[str]) -> bool:
    """Whether a text begins with a name as a whole word: "daxter" does not begin with "dax"."""
    return any(text.startswith(name) and not text[len(name) : len(name) + 1].isalnum() for name in names)
