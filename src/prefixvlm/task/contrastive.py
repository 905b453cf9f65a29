"""Contrastive retrieval: two heads embed captions and images, and recall scores their similarities."""

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from prefixvlm.batch import LEARNED, Batch, Row
from prefixvlm.data.sample import Sample
from prefixvlm.metrics.retrieval import KS, ranks
from prefixvlm.model.head import RowHead, in_float32
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.options.ranges import Size
from prefixvlm.task.head import HeadTask
from prefixvlm.task.interface import MAX_ROWS
from prefixvlm.task.results.prediction import Prediction, Score, item_mean_score
from prefixvlm.task.results.recall import RECALL_KINDS, in_recall_tables


class Pairs(nn.Module):
    """FROMAGe's heads: one embeds the hidden state of a learned token after the caption, one the image features.

    token: embedding of [RET], float[E]. scale: logarithm of 1 / temperature, learned and initialised as in CLIP.
    """

    def __init__(self, state_width: int, lm_width: int, feature_width: int, width: int) -> None:
        super().__init__()
        # 0.02 is the scale at which GPT-2 initialises its own embeddings.
        self.token = nn.Parameter(0.02 * torch.randn(lm_width))
        self.text = RowHead(nn.Linear(state_width, width))
        self.image = nn.Linear(feature_width, width)
        self.scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def forward(self, model: PrefixLM, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return vectors of the S captions and of their images, float32[S, W] with L2 norm 1, and the scale."""
        texts = self.text(model, batch, self.token)
        images = in_float32(self.image, model.features(batch.pixel_values).mean(1))[batch.target_image_index]
        return F.normalize(texts, dim=-1), F.normalize(images, dim=-1), self.scale


class Contrastive(HeadTask):
    """Retrieves images by captions and captions by images (FROMAGe, Koh et al. 2023).

    A row is the caption, then [RET], without the image. Negatives are the other samples of the batch on the same rank;
    samples with the same caption are positives of each other. width: width of the vectors.
    """

    name = "contrastive"
    main_score = "text_to_image_recall_1"
    variant = "contrastive heads; a caption's images are all that have that caption"
    head_options = ("width",)
    score_kinds = RECALL_KINDS
    takes = ""

    def __init__(self, width: Size = 256) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"task.contrastive.width is {width}; set it to 1 or more")
        self.width = width
        self.decoding = {"method": "contrastive", "width": width}

    def head(self, state_width: int, lm_width: int, feature_width: int) -> nn.Module:
        return Pairs(state_width, lm_width, feature_width, self.width)

    def training_rows(self, sample: Sample, rng: random.Random) -> list[Row]:
        return [replace(rng.choice(self.prompt_rows(sample)), references=())]

    def prompt_rows(self, sample: Sample) -> list[Row]:
        if not sample.captions:
            raise ValueError(f"sample {sample.key!r} has no caption, which task contrastive needs; set task to another")
        return [
            Row((caption, LEARNED), "", sample.key, f"{sample.key}-{number}", (caption,), target_image=sample.image)
            for number, caption in enumerate(sample.captions)
        ]

    def losses(self, model: PrefixLM, batch: Batch) -> Tensor:
        """Return InfoNCE of each caption, averaged over both directions: float32[S]."""
        texts, images, scale = model.heads[self.name](model, batch)
        with torch.autocast(texts.device.type, enabled=False):
            # In bfloat16, logits near 100 would be multiples of 0.5. The bound of 100 is CLIP's, against instability.
            logits = scale.exp().clamp_max(100) * texts @ images.T
        same_caption = (batch.input_ids[:, None] == batch.input_ids[None]).all(-1)
        targets = same_caption / same_caption.sum(1, keepdim=True)
        both_directions = [F.cross_entropy(each, targets, reduction="none") for each in (logits, logits.T)]
        return torch.stack(both_directions).mean(0)

    @torch.no_grad()
    def predict(self, model: PrefixLM, batch: Batch) -> list[Prediction]:
        """Return one prediction for each caption. values: the vector of the caption, then that of its image."""
        predictions = []
        for part in batch.split(MAX_ROWS):
            vectors = torch.cat(model.heads[self.name](model, part)[:2], 1).tolist()
            for rows, values in zip(part.rows, vectors, strict=True):
                predictions += [self.make_prediction(row, "", values) for row in rows]
        return predictions

    def finalize(self, predictions: Sequence[Prediction]) -> list[Prediction]:
        """Set the prediction of each caption to the first caption of the image that it retrieves first."""
        if not predictions:
            return []
        similarities, _, images = _similarities(predictions)
        captions = {p.key: p.prompt for p in reversed(predictions)}
        retrieved = [captions[images[place]] for place in similarities.argmax(1)]
        pairs = zip(predictions, retrieved, strict=True)
        return [replace(p, prediction=text, correct=self.correct(text, p.references)) for p, text in pairs]

    def shuffle_group(self, prediction: Prediction) -> str:
        """Return the same for all captions, because they exchange the vectors of their images."""
        return ""

    def with_output(self, prediction: Prediction, other: Prediction) -> Prediction:
        """Return a prediction with the image vector of another. finalize then finds what is retrieved."""
        own, others = list(prediction.values or ()), list(other.values or ())
        return replace(prediction, values=own[: len(own) // 2] + others[len(others) // 2 :])

    def scores(self, predictions: Sequence[Prediction]) -> dict[str, Score]:
        """Return recall at 1, 5 and 10 in percent, from captions to images and back."""
        similarities, captions, images = _similarities(predictions)
        keys_of_caption: dict[str, set[str]] = {}
        for p in predictions:
            keys_of_caption.setdefault(p.prompt, set()).add(p.key)
        right_images = [
            {place for place, key in enumerate(images) if key in keys_of_caption[text]} for text in captions
        ]
        right_captions = [{n for n, right in enumerate(right_images) if place in right} for place in range(len(images))]
        image_ranks, caption_ranks = ranks(similarities, right_images), ranks(similarities.T, right_captions)
        first = [[p.key for p in predictions].index(key) for key in images]  # one prediction for each image
        scores = {}
        for k in KS:
            items = (100.0 * (image_ranks < k)).tolist()
            scores[f"text_to_image_recall_{k}"] = item_mean_score(predictions, items)
            items = (100.0 * (caption_ranks < k)).tolist()
            scores[f"image_to_text_recall_{k}"] = item_mean_score([predictions[number] for number in first], items)
        return in_recall_tables(scores)


def _similarities(predictions: Sequence[Prediction]) -> tuple[NDArray[np.floating], list[str], list[str]]:
    """Return the similarity of each caption and each image, float[S, B], the captions, and the keys of the images."""
    vectors = np.array([p.values for p in predictions])
    width = vectors.shape[1] // 2
    image_vectors = {p.key: vector[width:] for p, vector in zip(predictions, vectors, strict=True)}
    similarities = vectors[:, :width] @ np.stack(list(image_vectors.values())).T
    return similarities, [p.prompt for p in predictions], list(image_vectors)
