"""Boxes with confidences and true boxes go in; COCO's mean average precision and recall, in percent, come out."""

from collections.abc import Sequence

import torch
from torch import Tensor

Edges = tuple[float, float, float, float]  # left, top, right, bottom, as shares of the image
NAMES = {"map": "map", "map_50": "map_50", "map_75": "map_75", "mar_100": "mar_100"}
SIZE = 1000.0  # pixels that an image's edge stands for; COCO's own sizes of boxes are not reported


def mean_average_precision(
    predictions: Sequence[Sequence[tuple[str, Edges, float]]],
    references: Sequence[Sequence[tuple[str, Edges]]],
    classes: Sequence[str],
) -> dict[str, float]:
    """Over overlaps of .5 to .95 (map), at .5 and at .75; recall with at most 100 boxes; and the map of each class that
    there is.

    Of each image the boxes: label, edges and, where predicted, confidence. By torchmetrics on pycocotools; -1 where
    there is nothing to find. Raises ValueError without pycocotools.
    """
    try:
        import pycocotools  # noqa: F401
        from torchmetrics.detection import MeanAveragePrecision
    except ImportError as error:
        raise ValueError(
            "detection is scored with pycocotools; `pip install 'prefixvlm[detection]'` adds it"
        ) from error
    metric = MeanAveragePrecision(class_metrics=True)
    metric.warn_on_many_detections = False
    place = {name: number for number, name in enumerate(classes)}
    for said, true in zip(predictions, references, strict=True):
        scores = torch.tensor([score for *_, score in said])
        boxes = [(label, edges) for label, edges, _ in said]
        metric.update([{**_tensors(boxes, place), "scores": scores}], [_tensors(true, place)])
    found = metric.compute()
    result = {name: _percent(found[theirs]) for name, theirs in NAMES.items()}
    each = zip(found["classes"].flatten().tolist(), found["map_per_class"].flatten().tolist(), strict=True)
    return result | {f"map_{classes[number]}": _percent(value) for number, value in each if value >= 0}


def _tensors(boxes: Sequence[tuple[str, Edges]], place: dict[str, int]) -> dict[str, Tensor]:
    edges = torch.tensor([edges for _, edges in boxes]).view(-1, 4)
    return {"boxes": SIZE * edges, "labels": torch.tensor([place[label] for label, _ in boxes], dtype=torch.long)}


def _percent(value: Tensor | float) -> float:
    return 100 * float(value) if float(value) >= 0 else -1.0
