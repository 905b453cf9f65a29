"""Diversity of predicted captions.

A model that gives every image the same caption still gets fair scores from the other caption metrics; here it shows.
"""

from collections import Counter
from collections.abc import Sequence

from prefixvlm.metrics.captions.words import PTB, Words


def diversity(predictions: Sequence[str], words: Words = PTB) -> dict[str, float]:
    """Return the diversity of captions; case and punctuation make no difference.

    `distinct_captions`: number of different captions, in percent of all. `most_frequent_share`: share of the most
    frequent caption in percent; 100 is mode collapse. `vocabulary`: number of different words. `mean_length`: mean
    number of words.
    """
    if isinstance(predictions, str) or not predictions:
        raise ValueError(f"diversity needs a list of at least one caption, not {predictions!r}")
    captions = Counter(words.tokenize(prediction) for prediction in predictions)
    split = {caption: caption.split() for caption in captions}
    return {
        "distinct_captions": 100.0 * len(captions) / len(predictions),
        "most_frequent_share": 100.0 * max(captions.values()) / len(predictions),
        "vocabulary": float(len({word for caption in split.values() for word in caption})),
        "mean_length": sum(count * len(split[caption]) for caption, count in captions.items()) / len(predictions),
    }
