"""Tokenised captions and references by id go in; ROUGE-L (Lin 2004) as the COCO tool reports it comes out.

Two quirks are kept: the best precision and the best recall may come from different references, and words are split at
every single space, so that an empty caption has one empty word.
"""

from collections.abc import Mapping, Sequence

from prefixvlm.metrics.pairs import Id, check_ids

BETA = 1.2  # weight of recall against precision


def rouge_l(predictions: Mapping[Id, str], references: Mapping[Id, Sequence[str]]) -> tuple[float, dict[Id, float]]:
    """The mean over the images and the score of each, 0 to 1."""
    check_ids(predictions, references)
    scores = {id: _score(prediction, references[id]) for id, prediction in predictions.items()}
    return sum(scores.values()) / len(scores), scores


def _score(prediction: str, truths: Sequence[str]) -> float:
    words = prediction.split(" ")
    pairs = [(truth.split(" "), _common(words, truth.split(" "))) for truth in truths]
    precision = max(common / len(words) for _, common in pairs)
    recall = max(common / len(truth) for truth, common in pairs)
    if not precision:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _common(left: Sequence[str], right: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(right) + 1)
    for word in left:
        diagonal = 0
        for index, other in enumerate(right, start=1):
            best = diagonal + 1 if word == other else max(row[index], row[index - 1])
            diagonal, row[index] = row[index], best
    return row[-1]
