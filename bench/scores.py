"""Time and peak memory of scoring synthetic captions and answers with real lengths and word frequencies.

`python bench/scores.py`: 40,000 captions with 5 references each, 200,000 answers with 10 each, on one core.
"""

import json
import platform
import random
import resource
import time
from pathlib import Path

from prefixvlm.metrics.captions.caption_scores import caption_scores
from prefixvlm.metrics.vqa.report import Annotation, vqa_report

OUT = Path("outputs/bench/scores.json")
CAPTIONS, REFERENCES, ANSWERS = 40_000, 5, 200_000


def words(rng: random.Random, count: int) -> list[str]:
    """Return words of a vocabulary of 10,000, with Zipf's frequencies."""
    ranks = rng.choices(range(10_000), cum_weights=CUMULATIVE, k=count)
    return [word(rank) for rank in ranks]


def word(number: int) -> str:
    """Return a word of lower-case letters for a number."""
    return "".join(chr(ord("a") + int(digit)) for digit in f"{number}")


def caption(rng: random.Random) -> str:
    text = " ".join(words(rng, rng.randint(8, 13)))
    return text.capitalize() + rng.choice((".", "", " .", ", isn't it?"))


def main() -> None:
    rng = random.Random(0)
    references = {id: [caption(rng) for _ in range(REFERENCES)] for id in range(CAPTIONS)}
    predictions = {id: caption(rng) for id in range(CAPTIONS)}
    started = time.perf_counter()
    caption_scores(predictions, references)
    caption_seconds = time.perf_counter() - started
    pool = [" ".join(words(rng, rng.choice((1, 1, 1, 2, 3)))) for _ in range(20_000)]
    annotations = {}
    for id in range(ANSWERS):
        answers_of_question = [rng.choice(pool) for _ in range(3)]
        annotations[id] = Annotation([rng.choice(answers_of_question) for _ in range(10)], "other", "what")
    answers = {id: rng.choice(annotation.answers) for id, annotation in annotations.items()}
    started = time.perf_counter()
    vqa_report(answers, annotations)
    result = {
        "caption_seconds": round(caption_seconds, 1),
        "vqa_seconds": round(time.perf_counter() - started, 1),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "captions": CAPTIONS,
        "references_each": REFERENCES,
        "answers": ANSWERS,
        "machine": platform.processor() or platform.machine(),
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


CUMULATIVE = [1.0]
for rank in range(2, 10_001):
    CUMULATIVE.append(CUMULATIVE[-1] + 1 / rank)

if __name__ == "__main__":
    main()
