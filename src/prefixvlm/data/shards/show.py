"""Show a folder of shards: a table of statistics, and a contact sheet of samples."""

import textwrap
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from prefixvlm.data.sample import BLACK_IMAGE, Sample, decode
from prefixvlm.data.shards.read import count_samples, read_shard
from prefixvlm.data.shards.resolve import all_shards
from prefixvlm.data.shards.statistics import Statistics

COLUMNS, ROWS = 8, 4
CELL, MARGIN, LINE = 180, 8, 15  # pixels
MAX_KEY = 26  # letters
LINES = 4  # text under an image: its key and its first text
FONTS = (
    "DejaVuSans.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansSC-Regular.otf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "msyh.ttc",
    "Arial Unicode.ttf",
)  # for a line of text, the first that is installed and has its letters
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def show(folder: Path, split: str | None, sheet: Path) -> str:
    """Return the table, a block per split, and write the picture to `sheet`. split: only this one."""
    shards = all_shards(folder)
    if not sheet.parent.is_dir() or sheet.suffix.lower() not in (".png", ".jpg"):
        raise ValueError(f"the picture cannot be {sheet}; set --out to a .png or .jpg file in a folder that there is")
    splits = dict.fromkeys(name for name, _, _ in shards)
    if split is not None and split not in splits:
        raise ValueError(f"{folder} holds no {split}, only {', '.join(splits)}")
    selected = [(name, path, count_samples(path)) for name, path, _ in shards if split in (None, name)]
    total = sum(count for _, _, count in selected)
    if not total:
        raise ValueError(f"the shards of {folder} hold no samples")
    num_cells = min(COLUMNS * ROWS, total)
    chosen = {number * total // num_cells for number in range(num_cells)}  # spread evenly over all samples
    statistics = {name: Statistics() for name, _, _ in selected}
    cells, number, missing = [], 0, dict[str, None]()
    with tqdm(total=total, desc="reading", unit=" samples") as bar:
        for name, path, _ in selected:
            for key, members in read_shard(path):
                statistics[name].add(members, _decode(key, members))
                if number in chosen:
                    cells.append(_cell(key, members, missing))
                number += 1
                bar.update()
    _sheet(cells).save(sheet)
    blocks = [f"{name}\n{_table(each.rows())}" for name, each in statistics.items()]
    if missing:
        blocks.append(f"No font was found here for {' '.join([*missing][:10])}, so boxes stand for such letters in the "
                      "picture; the package fonts-noto-cjk has many.")  # fmt: skip
    return "\n\n".join(blocks)


def _decode(key: str, members: dict[str, bytes], image: Image.Image | None = BLACK_IMAGE) -> Sample | None:
    try:
        return decode(key, members, "", image).check()
    except ValueError:
        return None


def _table(rows: dict[str, str]) -> str:
    width = max(map(len, rows))
    return "\n".join(f"  {name:{width}}  {value}" for name, value in rows.items())


def _cell(key: str, members: dict[str, bytes], missing: dict[str, None]) -> Image.Image:
    """Draw a sample: image, key and first text. missing: the letters that no font has are added to it."""
    cell = Image.new("RGB", (CELL, CELL + LINES * LINE), "white")
    sample = _decode(key, members, None)
    texts = ["does not decode"] if sample is None else _texts(sample)
    if sample is not None and isinstance(sample.image, Image.Image):
        shrink = CELL / max(sample.image.size)
        image = sample.image.resize([max(1, round(side * shrink)) for side in sample.image.size])
        cell.paste(image, ((CELL - image.width) // 2, CELL - image.height))
    text = " ".join(texts[:1])
    lines = [shorten(key), *textwrap.wrap(text, _letters_per_line(text))[: LINES - 1]]
    pen = ImageDraw.Draw(cell)
    for number, line in enumerate(lines):
        font, without = _font(line)
        missing |= dict.fromkeys(without)
        pen.text((0, CELL + number * LINE), line, fill="gray" if number == 0 else "black", font=font)
    return cell


def shorten(key: str) -> str:
    return key if len(key) <= MAX_KEY else f"{key[: MAX_KEY // 2 - 2]}...{key[2 - MAX_KEY // 2 - 1 :]}"


def _texts(sample: Sample) -> list[str]:
    questions = [" ".join([each.question, *each.answers[:1]]) for each in sample.questions]
    return [*sample.captions, *questions, *sample.labels.values()]


def _letters_per_line(text: str) -> int:
    font, _ = _font(text)
    return max(1, int(CELL * len(text) / font.getlength(text))) if text.strip() else MAX_KEY


def _font(text: str) -> tuple[Font, str]:
    """Return the font with the most letters of a text, and the letters that it lacks."""
    candidates = [(font, "".join(letter for letter in text if not _has(font, letter))) for font in _fonts()]
    return min(candidates, key=lambda pair: len(pair[1]))


@cache
def _fonts() -> list[Font]:
    fonts: list[Font] = []
    for name in FONTS:
        with suppress(OSError):
            fonts.append(ImageFont.truetype(name, LINE - 3))
    return [*fonts, ImageFont.load_default(LINE - 3)]


@cache
def _has(font: Font, letter: str) -> bool:
    # A font draws letters that it lacks as one glyph; U+10FFFF is assigned to no letter.
    return letter.isspace() or bytes(font.getmask(letter)) != bytes(font.getmask("\U0010ffff"))


def _sheet(cells: Sequence[Image.Image]) -> Image.Image:
    step = (CELL + 2 * MARGIN, CELL + LINES * LINE + 2 * MARGIN)
    rows = -(-len(cells) // COLUMNS)
    sheet = Image.new("RGB", (min(COLUMNS, len(cells)) * step[0], rows * step[1]), "white")
    for number, cell in enumerate(cells):
        sheet.paste(cell, (number % COLUMNS * step[0] + MARGIN, number // COLUMNS * step[1] + MARGIN))
    return sheet
