"""A sample of a shard: decoding and validation of its members."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from PIL import Image

from prefixvlm.data.feature_codec import decode_npy, decode_safetensors
from prefixvlm.data.image import decode_image, reason_of
from prefixvlm.data.schema import (
    Box,
    Question,
    Tagged,
    json_member,
    list_field,
    number_fields,
    parse_box,
    parse_question,
    parse_tagged,
    parse_texts,
    text_fields,
    text_list_fields,
)

if TYPE_CHECKING:  # importing it imports torch: a second and 200 MB in every process that writes shards
    from prefixvlm.batch import ImageOrFeatures

T = TypeVar("T")
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
FEATURE_EXTENSIONS = ("npy", "safetensors")  # an encoder's output, instead of an image
VISUAL_EXTENSIONS = (*IMAGE_EXTENSIONS, *FEATURE_EXTENSIONS)
TEXT_EXTENSIONS = ("json", "txt")
# "0.jpg" is the first image of the support.
EXTENSION = re.compile(rf"(\d+\.)?({'|'.join(VISUAL_EXTENSIONS)})|{'|'.join(TEXT_EXTENSIONS)}")
# The image of blind evaluations, and of samples with images that need not be decoded. As one object it is encoded once
# a batch, see Collator.
BLACK_IMAGE = Image.new("RGB", (64, 64))


@dataclass(frozen=True)
class Sample:
    """An image (RGB) or its stored features (float[N, D]), with the texts that belong to it.

    A decoded sample parses a field when it is first read: a task checks only the fields that it uses, because tars of
    others may use the same names for something else. Reading a field that is not valid raises ValueError.

    labels: the class by classification task, as {"shape": "circle"}.
    label_sets: the classes by multi-label task, as {"seen": ["circle", "red"]}.
    groups: scores are also reported by these, as {"domain": "near"}.
    support: images with their texts that precede the image, as in an episode of fast binding.
    values: numbers to regress, as {"area": 0.2}.
    boxes: () if there are no objects, None if the sample has no annotation of boxes.
    """

    key: str
    image: "ImageOrFeatures"
    # Factories, because a default of the class would be found before __getattr__ is called.
    captions: tuple[str, ...] = field(default_factory=tuple)
    questions: tuple[Question, ...] = field(default_factory=tuple)
    labels: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    support: "tuple[tuple[ImageOrFeatures, str], ...]" = field(default_factory=tuple)
    label_sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    boxes: tuple[Box, ...] | None = field(default_factory=lambda: None)
    tagged: tuple[Tagged, ...] = field(default_factory=tuple)

    if not TYPE_CHECKING:  # mypy would accept any name

        def __getattr__(self, name: str) -> object:
            if name not in self.__dict__.get("_parsers", ()):
                raise AttributeError(f"Sample has no {name!r}")
            object.__setattr__(self, name, self._parsers[name]())
            return self.__dict__[name]

    def __getstate__(self) -> dict[str, object]:
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def with_image(self, image: Image.Image) -> "Sample":
        """Return the sample with another image; its other fields stay unread."""
        sample = object.__new__(Sample)
        sample.__dict__.update(self.__dict__, image=image)
        return sample

    def check(self) -> "Sample":
        """Return the sample. Raises ValueError if any field is not valid."""
        _ = self.__getstate__()
        return self

    @property
    def picture(self) -> Image.Image:
        """The image. Raises ValueError if the shard holds features instead."""
        image = getattr(self.image, "image", self.image)  # of an image whose features may be stored
        if not isinstance(image, Image.Image):
            raise ValueError(
                f"sample {self.key} holds features instead of an image; set shards to those with the images"
            )
        return image


def decode(
    key: str,
    members: dict[str, bytes],
    where: str,
    image: Image.Image | None = None,
    decoder: Callable[[bytes], Any] = decode_image,
    prefix: str = "",
) -> Sample:
    """Decode the members of a sample, bytes by extension. Pickles are never loaded, formats never guessed.

    A sample has one image or features member. Its texts are in a json member with the fields of Sample, all optional
    and others ignored, `support` as [{"image": "0.jpg", "text": ...}] with the image in that member. Or it has one
    caption in a txt member (img2dataset, where the json is only metadata).
    image: replaces the images of the sample, which are then not decoded. decoder: of its images otherwise.
    prefix: of the key and of the ids of its questions.
    Raises ValueError that begins with `where` and the key, as does reading one of its fields.
    """

    def visual(name: str) -> "ImageOrFeatures":
        return _decode_visual(name, members, decoder) if image is None else image

    def parse(parser: Callable[[], T]) -> T:
        try:
            return parser()
        except Exception as error:  # MemoryError, RecursionError, OverflowError: all that one sample raises is its own
            raise ValueError(f"{where}, sample {key}: {reason_of(error)}") from error

    def header() -> "tuple[dict[str, object], ImageOrFeatures]":
        images = [extension for extension in members if extension in VISUAL_EXTENSIONS]
        if len(images) != 1:
            raise ValueError(f"it needs exactly one of .{', .'.join(VISUAL_EXTENSIONS)}, but has {len(images)}")
        return json_member(members), visual(images[0])

    content, visible = parse(header)
    parsers = _parsers(content, members, visual, prefix)
    sample = object.__new__(Sample)
    sample.__dict__.update(key=prefix + key, image=visible)
    sample.__dict__["_parsers"] = {name: partial(parse, parser) for name, parser in parsers.items()}
    return sample


def _parsers(
    content: Mapping[str, object], members: Mapping[str, bytes], visual: "Callable[[str], ImageOrFeatures]", prefix: str
) -> dict[str, Callable[[], object]]:
    """Return what parses each field of Sample."""

    def question(each: object) -> Question:
        parsed = parse_question(each)
        return replace(parsed, id=prefix + parsed.id)

    def listed(name: str, parse: Callable[[object], object]) -> tuple[object, ...]:
        return tuple(parse(each) for each in list_field(content, name))

    return {
        "captions": lambda: _captions(content, members),
        "questions": lambda: listed("questions", question),
        "labels": lambda: text_fields(content, "labels"),
        "groups": lambda: text_fields(content, "groups"),
        "support": lambda: listed("support", lambda each: _support(each, members, visual)),
        "label_sets": lambda: text_list_fields(content, "label_sets"),
        "values": lambda: number_fields(content, "values"),
        "boxes": lambda: listed("boxes", parse_box) if "boxes" in content else None,
        "tagged": lambda: listed("tagged", parse_tagged),
    }


def _decode_visual(name: str, members: Mapping[str, bytes], decoder: Callable[[bytes], Any]) -> "ImageOrFeatures":
    decoders = {"npy": decode_npy, "safetensors": decode_safetensors}
    return decoders.get(name.rpartition(".")[2], decoder)(members[name])


def _captions(content: Mapping[str, object], members: Mapping[str, bytes]) -> tuple[str, ...]:
    captions = parse_texts(content.get("captions", []), "captions")
    if captions or "txt" not in members:
        return captions
    try:
        text = members["txt"].decode().strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"the txt member is not UTF-8 ({error})") from error
    return (text,) if text else ()


def _support(
    content: object, members: Mapping[str, bytes], visual: "Callable[[str], ImageOrFeatures]"
) -> "tuple[ImageOrFeatures, str]":
    name = content.get("image") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(name, str) or name not in members:
        raise ValueError(
            f"a support is {content!r:.80}; it must be an object with text and the name of an image member"
        )
    (text,) = parse_texts([content.get("text")], "the text of a support")
    return visual(name), text
