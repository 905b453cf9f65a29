"""The answer metrics by name. Each scores an answer against its references, from 0 to 1.

Each has a variant, a name that is reported with its scores: scores of different variants do not compare.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from prefixvlm.metrics.pairs import check_lists
from prefixvlm.metrics.vqa.accuracy import vqa_accuracy, vqa_accuracy_lavis, vqa_accuracy_normalise_both
from prefixvlm.metrics.vqa.gqa import gqa_normalised, gqa_strict
from prefixvlm.metrics.vqa.okvqa import okvqa_accuracy
from prefixvlm.metrics.vqa.vizwiz import vizwiz_accuracy

Score = Callable[[str, Sequence[str]], float]

_ARTICLES = frozenset(("a", "an", "the"))
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(value) for value, word in enumerate(_NUMBERS)}
_PUNCTUATION = ".,;:!?\"'`()[]{}"


@dataclass(frozen=True)
class AnswerMetric:
    """variant: name that is reported with the scores. score: from a prediction and its references to 0..1.

    several: whether it leaves each person's answer out in turn, so that with fewer than four answers none can score 1.
    """

    variant: str
    score: Score
    several: bool = False


def normalise_answer(text: str) -> str:
    """Return text in lower case, without articles and punctuation around words, with number words as digits."""
    # If only articles or signs are left they stay: "a" can be the answer to "which letter?".
    words = [_DIGITS.get(bare, bare) for word in text.lower().split() if (bare := word.strip(_PUNCTUATION))]
    return " ".join([word for word in words if word not in _ARTICLES] or words or text.lower().split())


def exact_match_normalised(prediction: str, references: Sequence[str]) -> float:
    """Return 1 if the prediction equals any reference, both after `normalise_answer`, else 0."""
    return float(normalise_answer(prediction) in [normalise_answer(truth) for truth in references])


def _metric(variant: str, score: Score, several: bool = False) -> AnswerMetric:
    def checked_score(prediction: str, references: Sequence[str]) -> float:
        # In one place for all metrics: some divide by the number of references, others would compare letters.
        check_lists([prediction], [references])
        return score(prediction, references)

    return AnswerMetric(variant, checked_score, several)


ANSWER_METRICS: Mapping[str, AnswerMetric] = MappingProxyType(
    {
        "exact_match": _metric("exact_match_normalised", exact_match_normalised),
        "vqa": _metric("vqa_official", vqa_accuracy, several=True),
        "vqa_normalise_both": _metric("vqa_normalise_both_openflamingo_2", vqa_accuracy_normalise_both, several=True),
        "vqa_lavis": _metric("vqa_lavis", vqa_accuracy_lavis, several=True),
        "okvqa": _metric("okvqa_1.1_nltk_stem_openflamingo_vqa_official", okvqa_accuracy, several=True),
        "gqa": _metric("gqa_exact_match_vqa_normalise_both", gqa_normalised),
        "gqa_strict": _metric("gqa_exact_match_strict", gqa_strict),
        "vizwiz": _metric("vizwiz_official", vizwiz_accuracy, several=True),
    }
)


def check_several(metric: AnswerMetric, answers: Sequence[str]) -> None:
    """Raise ValueError if a metric that needs the answers of several people has fewer than four."""
    if metric.several and len(answers) < 4:
        raise ValueError(
            f"{metric.variant} compares with the answers of ten people, and a question has {len(answers)}; "
            "use exact match: metric=exact_match, or --variant exact_match"
        )


def answer_metric(name: str) -> AnswerMetric:
    """Return the metric of a name. Raises ValueError for an unknown name."""
    if name not in ANSWER_METRICS:
        raise ValueError(f"there is no answer metric {name!r}; there are {', '.join(ANSWER_METRICS)}")
    return ANSWER_METRICS[name]
