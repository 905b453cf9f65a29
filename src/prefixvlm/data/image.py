"""Opening of images: the only place of the project that does, so that all of it sees the same pixels."""

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageColor

from prefixvlm.data.feature_codec import MAX_BYTES
from prefixvlm.strict_json import read_limited

MAX_PIXELS = 50_000_000  # a 17 kB PNG can decompress to gigabytes
PILLOW_MAX_PIXELS = 178_956_970  # Pillow opens no image with more
_ORIENTATION = 0x0112  # tag of EXIF
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Header(NamedTuple):
    width: int
    height: int
    mime: str


@dataclass(frozen=True)
class ImageDecoder:
    """Decodes JPEG, PNG and WebP to RGB: upright by EXIF, transparent pixels on a background, the first frame.

    background: a colour of CSS, as white or #808080. max_pixels: larger images are refused.
    """

    background: str = "white"
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        try:
            _ = ImageColor.getcolor(self.background, "RGB")
        except (ValueError, AttributeError, TypeError) as error:
            raise ValueError(f"background is {self.background!r}; set it to a colour, as white or '#808080'") from error
        if type(self.max_pixels) is not int or not 1 <= self.max_pixels <= PILLOW_MAX_PIXELS:
            raise ValueError(f"max_pixels is {self.max_pixels!r}; set it to 1 ... {PILLOW_MAX_PIXELS}")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "ImageDecoder":
        """Return the decoder of a data module's options, which hold others too."""
        return cls(**{each.name: options[each.name] for each in fields(cls) if each.name in options})

    def changes(self) -> dict[str, Any]:
        """Return the options that are not the default."""
        return {each.name: value for each in fields(self) if (value := getattr(self, each.name)) != each.default}

    def __call__(self, data: bytes) -> Image.Image:
        """Return an upright RGB image without metadata. Raises ValueError if it is damaged or too large."""
        with _as_value_error():
            return self._upright_rgb(self._open(data))

    def convert(self, image: Image.Image) -> Image.Image:
        """Return an upright RGB copy, without metadata, of an image of any mode."""
        rgb = self._upright_rgb(image)
        return rgb.copy() if rgb.im is image.im else rgb

    def _upright_rgb(self, image: Image.Image) -> Image.Image:
        """Return an image that may share its pixels with the other."""
        turn = _UPRIGHT.get(_orientation(image))
        rgb = _to_rgb(image, self.background)
        if turn is not None:
            rgb = rgb.transpose(turn)
        elif rgb is image:
            rgb = image._new(image.im)  # without its file and metadata, and without a copy
        rgb.info.clear()  # whoever saves these pixels must not save the orientation that was applied to them
        return rgb

    def header(self, data: bytes) -> "Header":
        """Return what the header says, the size that of the upright image. Raises ValueError as a decoding does."""
        with _as_value_error():
            image = self._open(data)
            width, height = image.size[::-1] if _orientation(image) >= 5 else image.size
            return Header(width, height, Image.MIME[image.format or ""])

    def _open(self, data: bytes) -> Image.Image:
        """Return the image, of which only the header was read."""
        if len(data) > MAX_BYTES:
            raise ValueError(f"{len(data)} bytes; at most {MAX_BYTES} are read")
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP"))
        if image.width * image.height > self.max_pixels:
            raise ValueError(
                f"{image.width} x {image.height} pixels; at most {self.max_pixels} are decoded: set data.max_pixels, "
                "or --max-pixels of prefixvlm shards"
            )
        return image


decode_image = ImageDecoder()


def check_image_path(path: Path) -> None:
    """Raise ValueError for what is no file, as a folder, a pipe or a device, which could be read without end."""
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "a pipe or a device"
        raise ValueError(f"{path} is {what}; give the path of an image file")


def read_image(path: Path) -> bytes:
    """Return the bytes of an image file. Raises ValueError for what is no file or too large, OSError as `open`."""
    check_image_path(path)
    try:
        return read_limited(path, MAX_BYTES)
    except ValueError as error:
        raise ValueError(f"{path} is not an image ({error})") from error


def reason_of(error: Exception) -> str:
    """Return the message of an error as one line, with the type of one that is not for users."""
    # PIL names the buffer by its address, which would make the same error differ from run to run.
    text = re.sub(r" <.* at 0x[0-9a-f]+>", "", " ".join(str(error).split()))
    return text if text and isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {text}".rstrip(": ")


@contextmanager
def _as_value_error() -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's, about many pixels, which have a limit here, and damaged EXIF data
            yield
    except Exception as error:  # on damaged bytes PIL raises OSError, SyntaxError, struct.error and many others
        raise ValueError(f"the image does not decode ({reason_of(error)})") from error


def _orientation(image: Image.Image) -> int:
    """Return the orientation, 1 to 8, of the EXIF data; 1 without it."""
    try:
        value = image.getexif().get(_ORIENTATION)
    except Exception:  # EXIF that is damaged in one of many ways: viewers show such an image as it is stored
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_rgb(image: Image.Image, background: str) -> Image.Image:
    if image.mode.startswith("I"):  # PIL's own conversion of 16-bit grey clips it to white
        grey = np.asarray(image)
        rgb = Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB")
        return _on(background, rgb, Image.fromarray(np.uint8(255) * (grey != image.info.get("transparency", -1))))
    if not image.has_transparency_data:
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")  # convert() would copy
    transparent = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(transparent, tuple) and max(transparent) > 255:
        # PIL reads 16-bit colours as 8-bit ones, but not the colour that stands for transparent.
        image.info["transparency"] = tuple(level >> 8 for level in transparent)
    rgba = image.convert("RGBA")
    return _on(background, rgba.convert("RGB"), rgba.getchannel("A"))


def _on(background: str, rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", rgb.size, background)
    canvas.paste(rgb, mask=alpha)
    return canvas
