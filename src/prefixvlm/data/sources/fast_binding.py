"""Frozen's fast binding (open-ended miniImageNet): one sample for each published episode.

An episode shows a few images with captions that name them (the support), then asks for the name of another image. The
`choices` of the question are the names. Multimodal Few-Shot Learning with Frozen Language Models,
https://arxiv.org/abs/2106.13884.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from prefixvlm.data.sources._files import Record, Samples, field, id_field, path_inside, read_json, samples_of

_URL = "https://storage.googleapis.com/dm-few-shot-learning-benchmarks"
SOURCE = "Open-ended miniImageNet of Frozen, https://fh295.github.io/frozen.html"
LICENCE = "images of ImageNet, for research only; see https://fh295.github.io/frozen.html"
TERMS = "The images are ImageNet's: for non-commercial research and education only, under https://image-net.org/download.php"
SPLITS = ("test",)
ARGUMENTS = {
    "episodes": f"open_ended_mi: the folder in {_URL}/open_ended_mi.tar.gz (or real_name_mi of real_name_mi.tar.gz)",
    "shots": "N: only the episodes with N shots; without it all",
    "ways": "N: only the episodes with N ways; without it all",
}
_FILE = re.compile(r"(?P<task>.+_shots_(?P<shots>\d+)_ways_(?P<ways>\d+))_all_questions\.json")


def samples(split: str, episodes: Path, shots: int | None = None, ways: int | None = None) -> Samples:
    """Return the episodes with keys TASK_shots_N_ways_M_id_X, as in the file names of their images."""
    records = []
    for path in sorted(episodes.glob("*_all_questions.json")):
        match = _FILE.fullmatch(path.name)
        if match and shots in (None, int(match["shots"])) and ways in (None, int(match["ways"])):
            groups = {"ways": match["ways"], "shots": match["shots"]}
            records += [_record(each, path, match["task"], groups) for each in read_json(path, list, _FILE.pattern)]
    if not records:
        raise ValueError(
            f"{episodes} has no {shots or 'N'} shots and {ways or 'M'} ways; it must be {ARGUMENTS['episodes']}"
        )
    return samples_of(records, ARGUMENTS["episodes"])


def _record(episode: Any, path: Path, task: str, groups: dict[str, str]) -> Record:
    key = f"{task}_id_{id_field(episode, 'question_id', path)}"
    numbers = [1, *takewhile(lambda number: f"image_{number}" in episode, count(2))]
    files = [path_inside(path.parent, field(episode, f"image_{number}", str, path)) for number in numbers]
    captions = [field(episode, f"caption_{number}", str, path) for number in numbers]
    query = path_inside(path.parent, field(episode, "question_image", str, path))
    members = [f"{place}{file.suffix.lower()}" for place, file in enumerate(files)]
    question = {"id": key, "question": field(episode, "question", str, path), "groups": groups}
    answer, problem = field(episode, "answer", str, path), ""
    names = names_in(captions, answer)
    if not names:
        problem = f"the answer {answer!r} names none of {captions!r:.200}"
    elif len(set(names)) != int(groups["ways"]):
        problem = f"its captions hold {len(set(names))} names, but {path.name} says {groups['ways']} ways"
    else:
        question |= {"answers": names[:1], "choices": sorted(set(names))}
    support = [{"image": member, "text": caption} for member, caption in zip(members, captions, strict=True)]
    content = {"questions": [question], "support": support}
    return Record(key, query, content, problem, dict(zip(members, files, strict=True)))


def names_in(captions: Sequence[str], answer: str) -> list[str]:
    """Return the name in the answer, then that in each caption, as the captions spell it; [] if they are not found.

    A caption is a frame of words around a name, and all captions have the same frame, except for "a" and "an". The
    frame is what surrounds the answer in a caption; if the answer is a whole caption, it is the common beginning and
    end of the captions.
    """
    words_of, wanted = [_words(caption) for caption in captions], _fold(_words(answer))
    folded = [_fold(words) for words in words_of]
    spelling: dict[str, str] = {}
    for start, end in _frames(folded, wanted):
        names = [words[len(start) : len(words) - len(end)] for words in words_of]
        if all(names) and [[*start, *_fold(name), *end] for name in names] == folded:
            spelled = [spelling.setdefault(" ".join(_fold(name)), " ".join(name)) for name in names]
            return [spelled[folded.index(wanted if wanted in folded else [*start, *wanted, *end])], *spelled]
    return []


def _frames(captions: list[list[str]], answer: list[str]) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the possible frames: the words before and after the name."""
    if answer in captions:
        start = _common_start(captions)
        yield start, _common_start([caption[len(start) :][::-1] for caption in captions])[::-1]
    for caption in captions:
        for place in range(len(caption) - len(answer) + 1):
            if caption[place : place + len(answer)] == answer:
                yield caption[:place], caption[place + len(answer) :]


def _common_start(captions: list[list[str]]) -> list[str]:
    """Return the words with which all captions begin."""
    return [words[0] for words in takewhile(lambda words: len(set(words)) == 1, zip(*captions, strict=False))]


def _words(text: str) -> list[str]:
    return text.strip().removesuffix(".").split()


def _fold(words: list[str]) -> list[str]:
    return ["a" if word.casefold() == "an" else word.casefold() for word in words]
