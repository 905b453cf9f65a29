"""Predicted captions go in; how much they differ from one another comes out.

A model that says the same about every image scores fairly on the caption metrics, and here it shows.
"""

from collections import Counter
from collections.abc import Sequence

from prefixvlm.metrics.captions.words import PTB, Words


def diversity(predictions: Sequence[str], words: Words = PTB) -> dict[str, float]:
    """Over the words of the captions, so that case and punctuation make no difference.

    `distinct_captions`: different captions, in percent of all. `most_frequent_share`: how many say the most frequent
    one, in percent; 100 is mode collapse. `vocabulary`: different words. `mean_length`: words a caption.
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
