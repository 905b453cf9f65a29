"""Random crops and reflections of training images."""

import random
from collections.abc import Iterable

from PIL import Image

from prefixvlm.data.sample import Sample
from prefixvlm.options.ranges import BelowOne, Fraction, check_value
from prefixvlm.task.interface import Task


class Augment:
    """Crops and reflects the image of a sample, before the transform of the encoder.

    crop: the largest share that is cut off. The height and the width that are kept are drawn by themselves, each
        between 1 - crop times the shorter side of the image and the whole side, and then the place.
    flip: the probability that left and right are exchanged.
    """

    def __init__(self, crop: float = 0.0, flip: float = 0.0) -> None:
        check_value("module.random_crop", crop, BelowOne)
        check_value("module.random_flip", flip, Fraction)
        self.crop, self.flip = crop, flip

    def __bool__(self) -> bool:
        return bool(self.crop or self.flip)

    def check(self, reads_features: bool, tasks: Iterable[Task]) -> None:
        """Raise ValueError if there is no image to change, or a task learns where in the image something is."""
        if self and reads_features:
            raise ValueError(
                "module.random_crop and module.random_flip change images, but the shards hold features; set both to 0"
            )
        for task in tasks if self else ():
            if task.shown_as == "boxes":
                raise ValueError(
                    f"module.random_crop and module.random_flip move the objects whose boxes task {task.name} learns; "
                    "set both to 0"
                )

    def __call__(self, sample: Sample, rng: random.Random) -> Sample:
        """Return the sample with its image changed, or as it is."""
        if not self:
            return sample
        image = sample.picture
        if self.crop:
            shortest = (1 - self.crop) * min(image.size)
            width, height = (max(1, round(rng.uniform(shortest, side))) for side in image.size)
            left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
            image = image.crop((left, top, left + width, top + height))
        if rng.random() < self.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return sample.with_image(image)
