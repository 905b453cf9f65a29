"""Captions and references by id go in, as people write them; every caption score that needs no model comes out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prefixvlm.metrics.bleu import bleu
from prefixvlm.metrics.cider import cider
from prefixvlm.metrics.pairs import Id, check_ids
from prefixvlm.metrics.rouge import rouge_l
from prefixvlm.metrics.tokenizer import TOKENIZER, simple_tokenize


@dataclass(frozen=True)
class CaptionScores:
    """scores: `bleu_1` … `bleu_4`, `rouge_l`, `cider` on the official tool's scale. variant: names the tokenizer.

    per_item: each image's `rouge_l` and `cider`, in the order of the predictions, for intervals and paired tests.
    """

    scores: dict[str, float]
    per_item: dict[str, list[float]]
    variant: str


def caption_scores(predictions: Mapping[Id, str], references: Mapping[Id, Sequence[str]]) -> CaptionScores:
    check_ids(predictions, references)
    candidates = {id: simple_tokenize(prediction) for id, prediction in predictions.items()}
    truths = {id: [simple_tokenize(text) for text in texts] for id, texts in references.items()}
    bleus, _ = bleu(candidates, truths)
    rouge, rouges = rouge_l(candidates, truths)
    consensus, consensuses = cider(candidates, truths)
    return CaptionScores(
        scores={f"bleu_{n}": score for n, score in enumerate(bleus, 1)} | {"rouge_l": rouge, "cider": consensus},
        per_item={"rouge_l": list(rouges.values()), "cider": list(consensuses.values())},
        variant=f"coco_{TOKENIZER}_tokenizer",
    )
