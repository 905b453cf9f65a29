"""ROUGE-L (Lin 2004) of tokenized captions, as the COCO tool computes it."""

from collections.abc import Mapping, Sequence

from prefixvlm.metrics.pairs import Id, check_ids

BETA = 1.2  # weight of recall against precision; the COCO tool's value


def rouge_l(predictions: Mapping[Id, str], references: Mapping[Id, Sequence[str]]) -> tuple[float, dict[Id, float]]:
    """Return the mean over the images and the score of each, 0 to 1."""
    check_ids(predictions, references)
    scores = {id: _score(prediction, references[id]) for id, prediction in predictions.items()}
    return sum(scores.values()) / len(scores), scores


def _score(prediction: str, truths: Sequence[str]) -> float:
    # The tool splits at every single space, not at white space: an empty caption has one empty word.
    words = prediction.split(" ")
    places: dict[str, int] = {}
    for index, word in enumerate(words):
        places[word] = places.get(word, 0) | 1 << index
    pairs = [(truth, _lcs_length(places, len(words), truth)) for truth in (text.split(" ") for text in truths)]
    # As in the tool, the best precision and the best recall may come from different references.
    precision = max(common for _, common in pairs) / len(words)
    recall = max(common / len(truth) for truth, common in pairs)
    if not precision:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _lcs_length(places: Mapping[str, int], num_words: int, truth: Sequence[str]) -> int:
    """Return the length of the longest common subsequence.

    places: the positions of each word of the prediction, as the bits of an integer.
    """
    # A row of the dynamic program as the bits of one integer (Hyyro 2004): one step per word of the reference in place
    # of one per pair of words. A bit is 0 where the length grows by one.
    full = row = (1 << num_words) - 1
    for word in truth:
        matches = row & places.get(word, 0)
        row = (row + matches | row - matches) & full
    return num_words - row.bit_count()
