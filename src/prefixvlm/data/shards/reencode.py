"""A sample's members go in; out they come with smaller images, saved as JPEG."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image, ImageOps

from prefixvlm.data.sample import TEXT_EXTENSIONS, decode_image

QUALITY = 90


@dataclass(frozen=True)
class ReencodeOptions:
    """image_size: of the shorter side, in pixels, never enlarged. image_quality: of the JPEG, 1 to 100."""

    image_size: int | None = None
    image_quality: int | None = None

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"the image size is {self.image_size}; set --image-size to 1 or more")
        if self.image_quality is not None and not 1 <= self.image_quality <= 100:
            raise ValueError(f"the image quality is {self.image_quality}; set --image-quality to 1 ... 100")

    def options(self) -> dict[str, int]:
        """Those that are set."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def __call__(self, members: Mapping[str, bytes]) -> dict[str, bytes]:
        """Raises ValueError if an image does not decode."""
        if not self.options():
            return dict(members)
        names = {name: _as_jpg(name) for name in members if name not in TEXT_EXTENSIONS}
        encoded = {
            names.get(name, name): self._image(data) if name in names else data for name, data in members.items()
        }
        if any(name[0].isdigit() for name in names):
            encoded["json"] = renamed(members["json"], names)
        return encoded

    def _image(self, data: bytes) -> bytes:
        image = ImageOps.exif_transpose(decode_image(data))
        shorter = min(image.size)
        if self.image_size is not None and shorter > self.image_size:
            width, height = (max(1, round(side * self.image_size / shorter)) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BICUBIC)  # over all pixels that shrink into one
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=self.image_quality or QUALITY)
        return buffer.getvalue()


def _as_jpg(name: str) -> str:
    """ "png" is "jpg", "0.png" is "0.jpg"."""
    return ".".join([*name.split(".")[:-1], "jpg"])


def renamed(text: bytes, names: Mapping[str, str]) -> bytes:
    """The json member with the new names of the support's images."""
    content = json.loads(text)
    for each in content.get("support", []):
        each["image"] = names.get(each["image"], each["image"])
    return json.dumps(content).encode()
