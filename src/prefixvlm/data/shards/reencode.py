"""Re-encode the images of a sample as JPEG, optionally smaller."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from prefixvlm.data.image import ImageDecoder, decode_image
from prefixvlm.data.sample import TEXT_EXTENSIONS
from prefixvlm.data.schema import json_member, list_field

QUALITY = 90


@dataclass(frozen=True)
class ReencodeOptions:
    """How images are re-encoded; not at all if neither size nor quality is set.

    image_size: the shorter side in pixels; smaller images keep their size. image_quality: of the JPEG, 1 to 100.
    decoder: of the images that are read, also to check them.
    """

    image_size: int | None = None
    image_quality: int | None = None
    decoder: ImageDecoder = decode_image

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"the image size is {self.image_size}; set --image-size to 1 or more")
        if self.image_quality is not None and not 1 <= self.image_quality <= 100:
            raise ValueError(f"the image quality is {self.image_quality}; set --image-quality to 1 ... 100")
        if "background" in self.decoder.changes() and not self.reencodes:
            raise ValueError("--background is of images that are re-encoded; give --image-size or --image-quality too")

    @property
    def reencodes(self) -> bool:
        return self.image_size is not None or self.image_quality is not None

    def options(self) -> dict[str, Any]:
        """Return the options that are set."""
        set_ = {"image_size": self.image_size, "image_quality": self.image_quality}
        return {name: value for name, value in set_.items() if value is not None} | self.decoder.changes()

    def __call__(self, members: Mapping[str, bytes]) -> dict[str, bytes]:
        """Re-encode the images in the members. Raises ValueError if one does not decode."""
        if not self.reencodes:
            return dict(members)
        names = {name: _jpg_name(name) for name in members if name not in TEXT_EXTENSIONS}
        encoded = {
            names.get(name, name): self._encode(data) if name in names else data for name, data in members.items()
        }
        if any(name[0].isdigit() for name in names):
            encoded["json"] = rename_support(members, names)
        return encoded

    def _encode(self, data: bytes) -> bytes:
        image = self.decoder(data)
        shorter = min(image.size)
        if self.image_size is not None and shorter > self.image_size:
            width, height = (max(1, round(side * self.image_size / shorter)) for side in image.size)
            # PIL's bicubic filter averages over all the pixels that become one, so fine patterns do not alias.
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=self.image_quality or QUALITY)
        return buffer.getvalue()


def _jpg_name(name: str) -> str:
    """Return "jpg" for "png", "0.jpg" for "0.png"."""
    return ".".join([*name.split(".")[:-1], "jpg"])


def rename_support(members: Mapping[str, bytes], names: Mapping[str, str]) -> bytes:
    """Return the json member with new names of the images of the support."""
    content = json_member(members)
    for each in list_field(content, "support"):
        if isinstance(each, dict) and isinstance(name := each.get("image"), str):  # else decode() refuses the sample
            each["image"] = names.get(name, name)
    return json.dumps(content).encode()
