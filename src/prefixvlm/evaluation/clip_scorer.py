"""CLIPScore, RefCLIPScore and the retrieval by CLIP alone, on the evaluated images."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from prefixvlm.data.sample import Sample
from prefixvlm.encoder.clip import Clip
from prefixvlm.metrics.captions.clip_score import PREFIX, clip_scores
from prefixvlm.task.results.prediction import Prediction, Score, item_mean_score
from prefixvlm.task.results.recall import recalls

BATCH_SIZE = 64


class ClipScorer:
    """Scores predictions with a CLIP model. Captions of a blind evaluation are compared with the real images.

    samples: returns the evaluated samples with their images.
    """

    def __init__(self, clip: Clip, samples: Callable[[], Iterator[Sample]]) -> None:
        self.clip, self.samples = clip.to("cuda" if torch.cuda.is_available() else "cpu"), samples
        self._texts: dict[str, Tensor] = {}

    @cached_property
    def image_features(self) -> dict[str, Tensor]:
        """CLIP's features of all images by key, computed once and, like the scores, on rank 0 alone."""
        samples = iter(tqdm(self.samples(), desc="encoding images for CLIPScore", delay=2))
        features: dict[str, Tensor] = {}
        while batch := list(islice(samples, BATCH_SIZE)):
            batch_features = self.clip.image_features([sample.picture for sample in batch])
            features |= dict(zip([sample.key for sample in batch], batch_features, strict=True))
        return features

    def caption_scores(self, predictions: Sequence[Prediction]) -> dict[str, Score]:
        """Return `clip_score` and, if every item has references, `ref_clip_score`, both times 100."""
        texts = self._text_features([PREFIX + p.prediction for p in predictions])
        counts = [len(p.references) for p in predictions]
        images = torch.stack([self.image_features[p.key] for p in predictions])
        references = None
        if all(counts):
            features = self._text_features([PREFIX + text for p in predictions for text in p.references])
            references = [part.numpy() for part in features.split(counts)]
        result = clip_scores(images.numpy(), texts.numpy(), references)
        return {name: item_mean_score(predictions, items) for name, items in result.per_item.items()}

    def _text_features(self, texts: Sequence[str]) -> Tensor:
        """Return CLIP's features of texts, float32[len(texts), D], each text encoded once for all baselines."""
        if new := [text for text in dict.fromkeys(texts) if text not in self._texts]:
            self._texts |= dict(zip(new, self.clip.text_features(new), strict=True))
        return torch.stack([self._texts[text] for text in texts])

    def retrieval_scores(self, predictions: Sequence[Prediction]) -> dict[str, Score]:
        """Return recall at 1, 5 and 10 of CLIP alone on the same images and captions."""
        images = torch.stack([self.image_features[p.key] for p in predictions])
        texts = self.clip.text_features([text for p in predictions for text in p.references])
        owners = [number for number, p in enumerate(predictions) for _ in p.references]
        return recalls(predictions, (images @ texts.T).numpy(), owners, scorer="clip")

    def describe(self, encoder: Any) -> dict[str, Any]:
        """Return the name of the CLIP, and a warning if its image encoder is that of the evaluated model."""
        same = self.clip.same_image_encoder(encoder)
        warning = "the CLIP that scores is the model's own image encoder, so CLIPScore flatters the model"
        return {"name": self.clip.name, "pretrained": self.clip.pretrained, "warning": warning if same else None}
