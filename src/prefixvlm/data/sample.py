"""What one sample of a shard may hold: the bytes of its members go in, a checked Sample comes out."""

import io
import json
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
EXTENSIONS = (*IMAGE_EXTENSIONS, "json", "txt")
MAX_BYTES = 64 * 2**20  # of one member
MAX_PIXELS = 50_000_000  # a 17 kB PNG can unpack to gigabytes


@dataclass(frozen=True)
class Question:
    """A question about an image; its id is unique within the data set."""

    id: str
    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    """An image (RGB) and the texts that belong to it."""

    key: str
    image: Image.Image
    captions: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()


def decode(key: str, members: dict[str, bytes], where: str, image: Image.Image | None = None) -> Sample:
    """The sample in `members` (extension to bytes); never unpickles, never guesses a format.

    One image member; texts from a `json` member {"captions": [...], "questions": [{"id", "question", "answers"}]}, both
    keys optional and others ignored, or one caption from a `txt` member (img2dataset, whose json is only metadata).
    image: stands in for the sample's own, which is then not decoded.
    Raises ValueError naming `where` and the key.
    """
    try:
        images = [extension for extension in members if extension in IMAGE_EXTENSIONS]
        if len(images) != 1:
            raise ValueError(f"it needs exactly one of .{', .'.join(IMAGE_EXTENSIONS)}, but has {len(images)}")
        captions, questions = _texts(members)
        if image is None:
            image = decode_image(members[images[0]])
        return Sample(key, image, captions, questions)
    except ValueError as error:
        raise ValueError(f"{where}, sample {key}: {error}") from error


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
        raise ValueError(f"the image does not decode ({' '.join(str(error).split())})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: PIL's own conversion clips it to white
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # what PIL asks for, with a warning, before it drops the transparency
    return image.convert("RGB")


def _texts(members: dict[str, bytes]) -> tuple[tuple[str, ...], tuple[Question, ...]]:
    content: object = {}
    if "json" in members:
        try:
            content = json.loads(members["json"])
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the json member does not parse ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"the json member holds a {type(content).__name__}; it must hold an object")
    captions = _strings(content.get("captions", []), "captions")
    if not captions and "txt" in members:
        try:
            text = members["txt"].decode().strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"the txt member is not UTF-8 ({error})") from error
        captions = (text,) if text else ()
    questions = content.get("questions", [])
    if not isinstance(questions, list):
        raise ValueError(f"questions is {questions!r:.80}; it must be a list")
    return captions, tuple(_question(question) for question in questions)


def _question(content: object) -> Question:
    if not isinstance(content, dict) or not content.keys() >= {"id", "question", "answers"}:
        raise ValueError(f"a question is {content!r:.80}; it must be an object with id, question and answers")
    id_, question = _strings([content["id"], content["question"]], "id and question")
    if not content["answers"]:
        raise ValueError(f"question {id_!r} has no answers; it must have at least one")
    return Question(id_, question, _strings(content["answers"], "answers"))


def _strings(content: object, name: str) -> tuple[str, ...]:
    if not isinstance(content, list) or not all(isinstance(text, str) and text.strip() for text in content):
        raise ValueError(f"{name} is {content!r:.80}; it must be a list of texts, none of them empty")
    try:
        "".join(content).encode()
    except UnicodeEncodeError as error:  # JSON can hold half a surrogate pair, which no file can
        raise ValueError(f"{name} is {content!r:.80}, which is not valid Unicode") from error
    return tuple(content)
