"""What one sample of a shard may hold: the bytes of its members go in, a checked Sample comes out."""

import io
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from prefixvlm.data.feature_codec import MAX_BYTES, decode_npy, decode_safetensors
from prefixvlm.data.schema import (
    Box,
    Question,
    Tagged,
    box,
    content_of,
    list_of,
    lists_of_texts,
    names,
    numbers,
    question,
    tagged,
    texts,
)

if TYPE_CHECKING:  # it brings torch, which takes a second and 200 MB in every process that writes shards
    from prefixvlm.batch import ImageOrFeatures

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
FEATURE_EXTENSIONS = ("npy", "safetensors")  # in an image's place: what an encoder made of it
SEEN = (*IMAGE_EXTENSIONS, *FEATURE_EXTENSIONS)
TEXT_EXTENSIONS = ("json", "txt")
EXTENSION = re.compile(rf"(\d+\.)?({'|'.join(SEEN)})|{'|'.join(TEXT_EXTENSIONS)}")  # 0.jpg: an image of the support
MAX_PIXELS = 50_000_000  # a 17 kB PNG can unpack to gigabytes
BLACK = Image.new("RGB", (8, 8))  # stands in for images that need not be decoded


@dataclass(frozen=True)
class Sample:
    """An image (RGB), or the features that were computed of it (float[N, D]), and the texts that belong to it.

    labels: its class in each classification, as {"shape": "circle"}. groups: as a question's, {"domain": "near"}.
    support: images with their texts that stand before the image, as in an episode of fast binding.
    label_sets: where several classes may be true at once, {"seen": ["circle", "red"]}. values: numbers, {"area": 0.2}.
    boxes: where things are; None where that is not said, () where there is nothing. tagged: texts with a tag a word.
    """

    key: str
    image: "ImageOrFeatures"
    captions: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    support: "tuple[tuple[ImageOrFeatures, str], ...]" = ()
    label_sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    boxes: tuple[Box, ...] | None = None
    tagged: tuple[Tagged, ...] = ()

    @property
    def picture(self) -> Image.Image:
        """The image, where its features do not serve. Raises ValueError if the shard holds features in its place."""
        if not isinstance(self.image, Image.Image):
            raise ValueError(
                f"sample {self.key} holds features, and its image is wanted; set shards to those with the images"
            )
        return self.image


def decode(key: str, members: dict[str, bytes], where: str, image: Image.Image | None = None) -> Sample:
    """The sample in `members` (extension to bytes); never unpickles, never guesses a format.

    One image member, or its features; texts from a `json` member with the fields of Sample, all optional and others
    ignored, `support` as [{"image": "0.jpg", "text": ...}] with the image in that member; or one caption from a `txt`
    member (img2dataset, whose json is only metadata).
    image: stands in for the sample's own images, which are then not decoded.
    Raises ValueError naming `where` and the key.
    """
    try:
        images = [extension for extension in members if extension in SEEN]
        if len(images) != 1:
            raise ValueError(f"it needs exactly one of .{', .'.join(SEEN)}, but has {len(images)}")
        content = content_of(members)
        return Sample(
            key,
            _seen(images[0], members) if image is None else image,
            _captions(content, members),
            tuple(question(each) for each in list_of(content, "questions")),
            names(content, "labels"),
            names(content, "groups"),
            tuple(_supporting(each, members, image) for each in list_of(content, "support")),
            lists_of_texts(content, "label_sets"),
            numbers(content, "values"),
            tuple(box(each) for each in list_of(content, "boxes")) if "boxes" in content else None,
            tuple(tagged(each) for each in list_of(content, "tagged")),
        )
    except ValueError as error:
        raise ValueError(f"{where}, sample {key}: {error}") from error


def _seen(name: str, members: Mapping[str, bytes]) -> "ImageOrFeatures":
    decoders = {"npy": decode_npy, "safetensors": decode_safetensors}
    return decoders.get(name.rpartition(".")[2], decode_image)(members[name])


def decode_image(data: bytes) -> Image.Image:
    """RGB. Raises ValueError for what is no JPEG, PNG or WebP, is damaged, or is beyond the caps."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"the image has {len(data)} bytes; at most {MAX_BYTES} are read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP"))
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels; at most {MAX_PIXELS} are decoded")
            return _to_rgb(image)
    except Exception as error:  # on damaged bytes PIL raises OSError, SyntaxError, struct.error and many others
        reason = re.sub(r" <.* at 0x[0-9a-f]+>", "", " ".join(str(error).split()))  # of a buffer in memory
        raise ValueError(f"the image does not decode ({reason})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: PIL's own conversion clips it to white
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # what PIL asks for, with a warning, before it drops the transparency
    return image.convert("RGB")


def _captions(content: Mapping[str, object], members: Mapping[str, bytes]) -> tuple[str, ...]:
    captions = texts(content.get("captions", []), "captions")
    if captions or "txt" not in members:
        return captions
    try:
        text = members["txt"].decode().strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"the txt member is not UTF-8 ({error})") from error
    return (text,) if text else ()


def _supporting(
    content: object, members: Mapping[str, bytes], image: Image.Image | None
) -> "tuple[ImageOrFeatures, str]":
    name = content.get("image") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(name, str) or name not in members:
        raise ValueError(
            f"a support is {content!r:.80}; it must be an object with text and the name of an image member"
        )
    (text,) = texts([content.get("text")], "the text of a support")
    return _seen(name, members) if image is None else image, text
