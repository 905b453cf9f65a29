"""A folder of shards goes in; a table of what it holds and a picture of some of its samples come out."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps
from tqdm import tqdm

from prefixvlm.data.manifest import all_shards
from prefixvlm.data.sample import BLACK, Sample, decode
from prefixvlm.data.shards import count_samples, read_shard
from prefixvlm.data.statistics import Statistics

COLUMNS, ROWS = 8, 4
CELL, MARGIN, LINE = 180, 8, 15  # pixels
LINES = 4  # of text under an image: its key and its first text
FONTS = (
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "Arial Unicode.ttf",
    "DejaVuSans.ttf",
)  # the first that is there


def show(folder: Path, split: str | None, sheet: Path) -> str:
    """The table, a block for each split; the picture is written to `sheet`. split: only this one."""
    shards = all_shards(folder)
    splits = dict.fromkeys(name for name, _, _ in shards)
    if split is not None and split not in splits:
        raise ValueError(f"{folder} holds no {split}, only {', '.join(splits)}")
    walk = [(name, path, count_samples(path)) for name, path, _ in shards if split in (None, name)]
    total = sum(count for _, _, count in walk)
    if not total:
        raise ValueError(f"the shards of {folder} hold no samples")
    shown = min(COLUMNS * ROWS, total)
    picked = {number * total // shown for number in range(shown)}
    found = {name: Statistics() for name, _, _ in walk}
    cells, number = [], 0
    with tqdm(total=total, desc="reading", unit=" samples") as bar:
        for name, path, _ in walk:
            for key, members in read_shard(path):
                found[name].add(members, _decoded(key, members))
                if number in picked:
                    cells.append(_cell(key, members))
                number += 1
                bar.update()
    _sheet(cells).save(sheet)
    return "\n\n".join(f"{name}\n{_table(each.rows())}" for name, each in found.items())


def _decoded(key: str, members: dict[str, bytes], image: Image.Image | None = BLACK) -> Sample | None:
    try:
        return decode(key, members, "", image)
    except ValueError:
        return None


def _table(rows: dict[str, str]) -> str:
    width = max(map(len, rows))
    return "\n".join(f"  {name:{width}}  {value}" for name, value in rows.items())


def _cell(key: str, members: dict[str, bytes]) -> Image.Image:
    """One sample: its image, its key and its first text."""
    cell = Image.new("RGB", (CELL, CELL + LINES * LINE), "white")
    sample = _decoded(key, members, None)
    texts = ["does not decode"] if sample is None else _texts(sample)
    if sample is not None and isinstance(sample.image, Image.Image):
        image = ImageOps.contain(sample.image, (CELL, CELL))
        cell.paste(image, ((CELL - image.width) // 2, CELL - image.height))
    lines = [key[-24:], *textwrap.wrap(" ".join(texts[:1]), 28)[: LINES - 1]]
    pen, font = ImageDraw.Draw(cell), _font()
    for number, line in enumerate(lines):
        pen.text((0, CELL + number * LINE), line, fill="gray" if number == 0 else "black", font=font)
    return cell


def _texts(sample: Sample) -> list[str]:
    asked = [" ".join([each.question, *each.answers[:1]]) for each in sample.questions]
    return [*sample.captions, *asked, *sample.labels.values()]


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    for name in FONTS:
        try:
            return ImageFont.truetype(name, LINE - 3)
        except OSError:
            continue
    return ImageFont.load_default(LINE - 3)


def _sheet(cells: Sequence[Image.Image]) -> Image.Image:
    step = (CELL + 2 * MARGIN, CELL + LINES * LINE + 2 * MARGIN)
    rows = -(-len(cells) // COLUMNS)
    sheet = Image.new("RGB", (min(COLUMNS, len(cells)) * step[0], rows * step[1]), "white")
    for number, cell in enumerate(cells):
        sheet.paste(cell, (number % COLUMNS * step[0] + MARGIN, number // COLUMNS * step[1] + MARGIN))
    return sheet
