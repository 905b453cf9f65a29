"""Captions, their images and a CLIP go in; CLIPScore, RefCLIPScore and the CLIP's own retrieval come out."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from prefixvlm.data.sample import Sample
from prefixvlm.encoder.clip import Clip
from prefixvlm.encoder.interface import ImageEncoder
from prefixvlm.metrics.captions.clip_score import PREFIX, clip_scores
from prefixvlm.metrics.captions.java import meteor, spice, unavailable
from prefixvlm.metrics.captions.words import words_of
from prefixvlm.task.results.prediction import Prediction, Score, item_mean_score
from prefixvlm.task.retrieval import recalls

BATCH = 64


Scorer = Callable[[Sequence[Prediction]], dict[str, Score]]


def judges(task: str, judge: "Judge | None", blind: bool, java: bool) -> list[Scorer]:
    """What adds scores to those of a task: a CLIP, and the Java programs where they can run."""
    if task == "captioning":
        return [*([judge.caption_scores] if judge else []), *([java_scores] if java else [])]
    return [judge.retrieval_scores] if judge and task == "retrieval" and not blind else []


def java_scores(predictions: Sequence[Prediction]) -> dict[str, Score]:
    """METEOR and SPICE, 0 to 1, without those that cannot run here. METEOR's is of the whole set."""
    texts, references = {p.id: p.prediction for p in predictions}, {p.id: p.references for p in predictions}
    missing, scores = unavailable(words_of(references.values())), {}
    if "meteor" not in missing:
        scores["meteor"] = Score(meteor(texts, references)[0], predictions)
    if "spice" not in missing:
        scores["spice"] = item_mean_score(predictions, list(spice(texts, references)[1].values()))
    return scores


class Judge:
    """A CLIP that sees the images that are evaluated; it judges captions of them, blind ones too."""

    def __init__(self, clip: Clip, samples: Callable[[], Iterator[Sample]]) -> None:
        self.clip, self.samples = clip.to("cuda" if torch.cuda.is_available() else "cpu"), samples

    @cached_property
    def images(self) -> dict[str, Tensor]:
        """Features by key, computed when they are first asked for: on rank 0 alone."""
        samples = iter(tqdm(self.samples(), desc="the judge looks at the images", delay=2))
        features: dict[str, Tensor] = {}
        while batch := list(islice(samples, BATCH)):
            found = self.clip.image_features([sample.picture for sample in batch])
            features |= dict(zip([sample.key for sample in batch], found, strict=True))
        return features

    def caption_scores(self, predictions: Sequence[Prediction]) -> dict[str, Score]:
        """`clip_score` and `ref_clip_score`, times 100."""
        texts = self.clip.text_features([PREFIX + p.prediction for p in predictions])
        counts = [len(p.references) for p in predictions]
        images = torch.stack([self.images[p.key] for p in predictions])
        references = None
        if all(counts):
            every = self.clip.text_features([PREFIX + text for p in predictions for text in p.references])
            references = [part.numpy() for part in every.split(counts)]
        result = clip_scores(images.numpy(), texts.numpy(), references)
        return {name: item_mean_score(predictions, items) for name, items in result.per_item.items()}

    def retrieval_scores(self, predictions: Sequence[Prediction]) -> dict[str, Score]:
        """Recall at 1, 5 and 10 of the judge itself, on the same images and captions: what CLIP alone reaches."""
        images = torch.stack([self.images[p.key] for p in predictions])
        texts = self.clip.text_features([text for p in predictions for text in p.references])
        owners = [number for number, p in enumerate(predictions) for _ in p.references]
        return recalls(predictions, (images @ texts.T).numpy(), owners, prefix="clip_")

    def describe(self, encoder: ImageEncoder) -> dict[str, Any]:
        """Which CLIP judged, and a warning if it is the model's own eye."""
        own = self.clip.same_image_tower(encoder)
        warning = "the judge is the model's own image encoder, so its CLIPScore flatters the model" if own else None
        return {"name": self.clip.name, "pretrained": self.clip.pretrained, "warning": warning}
