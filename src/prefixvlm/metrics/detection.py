"""COCO's mean average precision and recall of predicted boxes, by torchmetrics and pycocotools."""

from collections.abc import Sequence

import torch
from torch import Tensor

Edges = tuple[float, float, float, float]  # left, top, right, bottom, as fractions of the image
NAMES = ("map", "map_50", "map_75", "mar_100")
SIZE = 1000.0  # image size in pixels; it only decides COCO's small, medium and large, which are not reported


def mean_average_precision(
    predictions: Sequence[Sequence[tuple[str, Edges, float]]],
    references: Sequence[Sequence[tuple[str, Edges]]],
    classes: Sequence[str],
) -> dict[str, float]:
    """Return `map` (mean over IoU thresholds .5 to .95), `map_50`, `map_75`, `mar_100` and `map_CLASS`, in percent.

    predictions: for each image the label, edges and confidence of each box. references: the same without confidence.
    A score is -1 if there is no box to find; such a class has none. Raises ValueError if pycocotools is not installed.
    """
    try:
        import pycocotools  # noqa: F401
        from torchmetrics.detection import MeanAveragePrecision
    except ImportError as error:
        raise ValueError(
            "detection is scored with pycocotools; `pip install 'prefixvlm[detection]'` adds it"
        ) from error
    metric = MeanAveragePrecision(class_metrics=True)
    metric.warn_on_many_detections = False  # COCO scores the 100 most confident boxes of an image, by definition
    index = {name: number for number, name in enumerate(classes)}
    for predicted, true in zip(predictions, references, strict=True):
        scores = torch.tensor([score for *_, score in predicted])
        boxes = [(label, edges) for label, edges, _ in predicted]
        metric.update([{**_tensors(boxes, index), "scores": scores}], [_tensors(true, index)])
    result = metric.compute()
    scores_by_name = {name: _percent(result[name]) for name in NAMES}
    # torchmetrics also lists a class that is only predicted, with -1.
    by_class = zip(result["classes"].flatten().tolist(), result["map_per_class"].flatten().tolist(), strict=True)
    return scores_by_name | {f"map_{classes[number]}": _percent(value) for number, value in by_class if value >= 0}


def _tensors(boxes: Sequence[tuple[str, Edges]], index: dict[str, int]) -> dict[str, Tensor]:
    edges = torch.tensor([edges for _, edges in boxes]).view(-1, 4)  # view: an image without boxes is float[0, 4]
    return {"boxes": SIZE * edges, "labels": torch.tensor([index[label] for label, _ in boxes], dtype=torch.long)}


def _percent(value: Tensor | float) -> float:
    # COCO's -1 for an undefined score is no share, so it is not turned into percent.
    return 100 * float(value) if float(value) >= 0 else -1.0
