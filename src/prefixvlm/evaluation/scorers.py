"""Additional scores of an evaluation: CLIPScore, and METEOR and SPICE through Java."""

from collections.abc import Iterable, Sequence

from prefixvlm.evaluation.clip_scorer import ClipScorer
from prefixvlm.metrics.captions.java import meteor, spice, unavailable
from prefixvlm.metrics.captions.words import words_of
from prefixvlm.metrics.score_kind import RATIO
from prefixvlm.task.interface import Scorer
from prefixvlm.task.results.prediction import Prediction, Score, item_mean_score


def extra_scorers(
    tasks: Iterable[str], clip_scorer: ClipScorer | None, baseline: bool, java: bool
) -> dict[str, list[Scorer]]:
    """Return the scorers of each task by its name."""
    scorers: dict[str, list[Scorer]] = {name: [] for name in tasks}
    if "captioning" in scorers:
        scorers["captioning"] = [clip_scorer.caption_scores] if clip_scorer else []
        scorers["captioning"] += [java_scores] if java else []
    # CLIP sees the real images in a baseline too, so that its own retrieval would be the same.
    if "retrieval" in scorers and clip_scorer and not baseline:
        scorers["retrieval"] = [clip_scorer.retrieval_scores]
    return scorers


def java_scores(predictions: Sequence[Prediction]) -> dict[str, Score]:
    """Return METEOR, of the corpus, and SPICE, both 0 to 1, without those that cannot run here."""
    texts, references = {p.id: p.prediction for p in predictions}, {p.id: p.references for p in predictions}
    missing, scores = unavailable(words_of(references.values())), {}
    if "meteor" not in missing:
        scores["meteor"] = Score(meteor(texts, references)[0], predictions, kind=RATIO)
    if "spice" not in missing:
        scores["spice"] = item_mean_score(predictions, list(spice(texts, references)[1].values()), RATIO)
    return scores
