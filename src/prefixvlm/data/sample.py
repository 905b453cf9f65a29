"""What one sample of a shard may hold: the bytes of its members go in, a checked Sample comes out."""

import io
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from prefixvlm.data.arrays import MAX_BYTES, decode_npy, decode_safetensors

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
class Question:
    """A question about an image; its id is unique within the data set.

    answers: none where they are kept secret, as in a test split. choices: what the answer is one of, if that is known.
    groups: what scores are also reported by, as {"answer_type": "yes/no"}.
    """

    id: str
    question: str
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """An image (RGB), or the features that were computed of it (float[N, D]), and the texts that belong to it.

    labels: its class in each classification, as {"shape": "circle"}. groups: as a question's, {"domain": "near"}.
    support: images with their texts that stand before the image, as in an episode of fast binding.
    """

    key: str
    image: "ImageOrFeatures"
    captions: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    support: "tuple[tuple[ImageOrFeatures, str], ...]" = ()

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
        content = _content(members)
        return Sample(
            key,
            _seen(images[0], members) if image is None else image,
            _captions(content, members),
            tuple(_question(question) for question in _list(content, "questions")),
            _names(content, "labels"),
            _names(content, "groups"),
            tuple(_supporting(each, members, image) for each in _list(content, "support")),
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


def _content(members: Mapping[str, bytes]) -> dict[str, object]:
    try:
        content = json.loads(members.get("json", b"{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the json member does not parse ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"the json member holds a {type(content).__name__}; it must hold an object")
    return content


def _captions(content: Mapping[str, object], members: Mapping[str, bytes]) -> tuple[str, ...]:
    captions = _strings(content.get("captions", []), "captions")
    if captions or "txt" not in members:
        return captions
    try:
        text = members["txt"].decode().strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"the txt member is not UTF-8 ({error})") from error
    return (text,) if text else ()


def _question(content: object) -> Question:
    if not isinstance(content, dict) or not content.keys() >= {"id", "question", "answers"}:
        raise ValueError(f"a question is {content!r:.80}; it must be an object with id, question and answers")
    id_, question = _strings([content["id"], content["question"]], "id and question")
    answers, choices = _strings(content["answers"], "answers"), _strings(content.get("choices", []), "choices")
    return Question(id_, question, answers, choices, _names(content, "groups"))


def _supporting(
    content: object, members: Mapping[str, bytes], image: Image.Image | None
) -> "tuple[ImageOrFeatures, str]":
    name = content.get("image") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(name, str) or name not in members:
        raise ValueError(
            f"a support is {content!r:.80}; it must be an object with text and the name of an image member"
        )
    (text,) = _strings([content.get("text")], "the text of a support")
    return _seen(name, members) if image is None else image, text


def _list(content: Mapping[str, object], name: str) -> list[object]:
    value = content.get(name, [])
    if not isinstance(value, list):
        raise ValueError(f"{name} is {value!r:.80}; it must be a list")
    return value


def _names(content: Mapping[str, object], name: str) -> dict[str, str]:
    """A flat object of texts."""
    value = content.get(name, {})
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {value!r:.80}; it must be an object")
    return dict(zip(value, _strings(list(value.values()), name), strict=True))


def _strings(content: object, name: str) -> tuple[str, ...]:
    if not isinstance(content, list) or not all(isinstance(text, str) and text.strip() for text in content):
        raise ValueError(f"{name} is {content!r:.80}; it must be a list of texts, none of them empty")
    try:
        "".join(content).encode()
    except UnicodeEncodeError as error:  # JSON can hold half a surrogate pair, which no file can
        raise ValueError(f"{name} is {content!r:.80}, which is not valid Unicode") from error
    return tuple(content)
