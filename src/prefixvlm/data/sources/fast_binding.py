"""Frozen's fast binding: a folder of published episodes goes in, one sample an episode comes out.

An episode shows a few images with captions that name them, then asks for the name of another image: its support, its
image and its question, whose `choices` are the names. Multimodal Few-Shot Learning with Frozen Language Models,
https://arxiv.org/abs/2106.13884.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from prefixvlm.data.sources._files import Record, Samples, field, identity, read_json, with_images

_URL = "https://storage.googleapis.com/dm-few-shot-learning-benchmarks"
SOURCE = "Open-ended miniImageNet of Frozen, https://fh295.github.io/frozen.html"
LICENCE = "images of ImageNet, for research only; see https://fh295.github.io/frozen.html"
TERMS = "The images are ImageNet's: for non-commercial research and education only, under https://image-net.org/download.php"
SPLITS = ("test",)
WANTED = {
    "episodes": f"open_ended_mi: the folder in {_URL}/open_ended_mi.tar.gz (or real_name_mi of real_name_mi.tar.gz)",
    "shots": "N: only the episodes with N shots; without it all",
    "ways": "N: only the episodes with N ways; without it all",
}
_FILE = re.compile(r"(?P<task>.+_shots_(?P<shots>\d+)_ways_(?P<ways>\d+))_all_questions\.json")


def samples(split: str, episodes: Path, shots: int | None = None, ways: int | None = None) -> Samples:
    """Keys are TASK_shots_N_ways_M_id_X, as in the names of the images."""
    records = []
    for path in sorted(episodes.glob("*_all_questions.json")):
        match = _FILE.fullmatch(path.name)
        if match and shots in (None, int(match["shots"])) and ways in (None, int(match["ways"])):
            groups = {"ways": match["ways"], "shots": match["shots"]}
            records += [_record(each, path, match["task"], groups) for each in read_json(path, list, _FILE.pattern)]
    if not records:
        raise ValueError(
            f"{episodes} has no {shots or 'N'} shots and {ways or 'M'} ways; it must be {WANTED['episodes']}"
        )
    return with_images(records, WANTED["episodes"])


def _record(episode: Any, path: Path, task: str, groups: dict[str, str]) -> Record:
    key = f"{task}_id_{identity(episode, 'question_id', path)}"
    numbers = [1, *takewhile(lambda number: f"image_{number}" in episode, count(2))]
    files = [path.parent / field(episode, f"image_{number}", str, path) for number in numbers]
    captions = [field(episode, f"caption_{number}", str, path) for number in numbers]
    query = path.parent / field(episode, "question_image", str, path)
    members = [f"{place}{file.suffix.lower()}" for place, file in enumerate(files)]
    question = {"id": key, "question": field(episode, "question", str, path), "groups": groups}
    answer, wrong = field(episode, "answer", str, path), ""
    names = names_in(captions, answer)
    if not names:
        wrong = f"the answer {answer!r} names none of {captions!r:.200}"
    elif len(set(names)) != int(groups["ways"]):
        wrong = f"its captions hold {len(set(names))} names, but {path.name} says {groups['ways']} ways"
    else:
        question |= {"answers": names[:1], "choices": sorted(set(names))}
    support = [{"image": member, "text": caption} for member, caption in zip(members, captions, strict=True)]
    content = {"questions": [question], "support": support}
    return Record(key, query, content, wrong, dict(zip(members, files, strict=True)))


def names_in(captions: Sequence[str], answer: str) -> list[str]:
    """What the answer names, then what each caption does, as the captions spell it; nothing if that cannot be told.

    A caption is words, a name, words; the words are the same in all but for "a" and "an". Where the answer stands in a
    caption tells which they are, and where it is a whole caption, what the captions begin and end with alike.
    """
    told, asked = [_words(caption) for caption in captions], _fold(_words(answer))
    folded = [_fold(words) for words in told]
    spelt: dict[str, str] = {}
    for start, end in _frames(folded, asked):
        names = [words[len(start) : len(words) - len(end)] for words in told]
        if all(names) and [[*start, *_fold(name), *end] for name in names] == folded:
            found = [spelt.setdefault(" ".join(_fold(name)), " ".join(name)) for name in names]
            return [found[folded.index(asked if asked in folded else [*start, *asked, *end])], *found]
    return []


def _frames(captions: list[list[str]], answer: list[str]) -> Iterator[tuple[list[str], list[str]]]:
    """The words before and after the name, as they may be."""
    if answer in captions:
        start = _alike(captions)
        yield start, _alike([caption[len(start) :][::-1] for caption in captions])[::-1]
    for caption in captions:
        for place in range(len(caption) - len(answer) + 1):
            if caption[place : place + len(answer)] == answer:
                yield caption[:place], caption[place + len(answer) :]


def _alike(captions: list[list[str]]) -> list[str]:
    """The words that all begin with."""
    return [words[0] for words in takewhile(lambda words: len(set(words)) == 1, zip(*captions, strict=False))]


def _words(text: str) -> list[str]:
    return text.strip().removesuffix(".").split()


def _fold(words: list[str]) -> list[str]:
    return ["a" if word.casefold() == "an" else word.casefold() for word in words]
