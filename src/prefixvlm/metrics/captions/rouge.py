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
    places: dict[str, int] = {}
    for index, word in enumerate(words):
        places[word] = places.get(word, 0) | 1 << index
    pairs = [(others, _common(places, len(words), others)) for others in (truth.split(" ") for truth in truths)]
    precision = max(common for _, common in pairs) / len(words)
    recall = max(common / len(others) for others, common in pairs)
    if not precision:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _common(places: Mapping[str, int], num_words: int, others: Sequence[str]) -> int:
    """Length of the longest common subsequence, a row of the table as the bits of one integer (Hyyro 2004).

    places: where each word stands in the other caption, as bits. A bit of the row is 0 where the length grows by one.
    """
    full = row = (1 << num_words) - 1
    for word in others:
        matches = row & places.get(word, 0)
        row = (row + matches | row - matches) & full
    return num_words - row.bit_count()
