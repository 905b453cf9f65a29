"""The baseline of captions without a language model: the caption of the training image that is most alike."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from prefixvlm.data.datamodule import ShardDataModule
from prefixvlm.encoder.interface import ImageEncoder
from prefixvlm.encoder.mean_features import mean_features
from prefixvlm.evaluation.demonstrations import images_of
from prefixvlm.features.captioned import captioned_features
from prefixvlm.task.captioning import Captioning
from prefixvlm.task.interface import Scorer, Task
from prefixvlm.task.results.prediction import Prediction
from prefixvlm.task.retrieval import Retrieval


def captioning_tasks(tasks: Mapping[str, Task]) -> list[str]:
    """Return the names of the tasks whose outputs are captions. Retrieval reads captions, and gives likelihoods."""
    return [name for name, task in tasks.items() if isinstance(task, Captioning) and not isinstance(task, Retrieval)]


def nearest_captions(encoder: ImageEncoder, data: ShardDataModule) -> dict[str, str]:
    """Return by the key of each test image the first caption of the nearest training image, by the cosine of features.

    Raises ValueError if no training image has a caption.
    """
    what = "encoding training images"
    pool, captions = captioned_features(encoder, data.paths("train"), data.decoder, what)
    if not captions:
        raise ValueError("nearest is true, but no training image has a caption; set nearest=false")
    loader = data.test_dataloader()[0]  # its samples are the same for every task
    keys: list[str] = []
    test = images_of(loader.samples(images=True), keys)
    features = mean_features(encoder, test, loader.num_samples, "encoding test images")
    # Rows at a time: all cosines of 40,000 by 80,000 images would take gigabytes.
    found = [int(number) for rows in features.split(1024) for number in (rows @ pool.T).argmax(1)]
    return {key: captions[number][0] for key, number in zip(keys, found, strict=True)}


def nearest_trial(
    tasks: Mapping[str, Task],
    predictions: Mapping[str, Sequence[Prediction]],
    extra_scorers: Mapping[str, Sequence[Scorer]],
    captions: Mapping[str, str],
) -> tuple[dict[str, dict[str, Any]], dict[str, Sequence[Prediction]]]:
    """Return a report and predictions for each captioning task, with these captions in place of the model's."""
    reports: dict[str, dict[str, Any]] = {}
    nearest: dict[str, Sequence[Prediction]] = {}
    for name in captioning_tasks(tasks):
        outputs = [replace(p, prediction=captions[p.key], values=None) for p in predictions[name]]
        pairs = zip(predictions[name], outputs, strict=True)
        nearest[name] = tasks[name].finalize([tasks[name].with_output(p, output) for p, output in pairs])
        reports[name] = tasks[name].report(nearest[name], extra_scorers.get(name, ()))
    return reports, nearest
