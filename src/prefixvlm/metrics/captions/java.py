"""Captions and references by id go in, as people write them; METEOR and SPICE come out, from their authors' programs.

The programs are Java archives in the package pycocoevalcap, which prefixvlm does not require: `unavailable` says what
is missing here. As in the official pipeline they read PTB words, and one process scores all captions.
"""

import importlib.util
import json
import math
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from prefixvlm.metrics.captions.words import PTB, Words
from prefixvlm.metrics.pairs import Id

_CORENLP = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


def unavailable(words: Words = PTB) -> dict[str, str]:
    """`meteor` or `spice` -> why it cannot run here, in one sentence; what is not named can.

    words: those of the other scores.
    """
    if words is not PTB:
        return dict.fromkeys(("meteor", "spice"), "it reads words of English, and these captions have no spaces")
    if not shutil.which("java"):
        return dict.fromkeys(("meteor", "spice"), "there is no java on the PATH")
    folder = _folder()
    if folder is None:
        reason = "the package pycocoevalcap, which holds its Java archive, is not installed (pip install pycocoevalcap)"
        return dict.fromkeys(("meteor", "spice"), reason)
    reasons = {}
    if not (folder / "meteor/meteor-1.5.jar").is_file():
        reasons["meteor"] = f"there is no meteor-1.5.jar in {folder / 'meteor'}"
    missing = [name for name in ("spice-1.0.jar", *(f"lib/{name}" for name in _CORENLP)) if not _spice(name).is_file()]
    if missing:
        reasons["spice"] = (
            f"{' and '.join(missing)} are missing in {folder / 'spice'}: CoreNLP 3.6.0's are in "
            "nlp.stanford.edu/software/stanford-corenlp-full-2015-12-09.zip (python -m "
            "pycocoevalcap.spice.get_stanford_models fetches them)"
        )
    return reasons


def meteor(
    predictions: Mapping[Id, str], references: Mapping[Id, Sequence[str]], timeout: float = 3600.0
) -> tuple[float, dict[Id, float]]:
    """METEOR 1.5 (Denkowski and Lavie 2014) of the corpus, from summed statistics, and of each image; 0 to 1.

    timeout: seconds until the program is stopped. A ValueError says why it cannot run or that it failed.
    """
    jar = _required("meteor") / "meteor/meteor-1.5.jar"
    candidates, truths = PTB.of_all(predictions, references)
    # Line breaks and METEOR's separator cannot pass: PTB words have neither ("|||" is three words).
    command = ["java", "-Xmx2G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
    lines = [" ||| ".join(("SCORE", *truths[id], candidate)) for id, candidate in candidates.items()]
    statistics = _run("METEOR", command, timeout, "\n".join(lines) + "\n").splitlines()
    if len(statistics) != len(lines):
        raise ValueError(f"METEOR answered {len(statistics)} times to {len(lines)} captions")
    scores = _run("METEOR", command, timeout, " ||| ".join(("EVAL", *statistics)) + "\n").split()
    if len(scores) != len(lines) + 1:
        raise ValueError(f"METEOR gave {len(scores)} scores for {len(lines)} captions and their whole")
    return float(scores[-1]), dict(zip(candidates, map(float, scores[:-1]), strict=True))


def spice(
    predictions: Mapping[Id, str], references: Mapping[Id, Sequence[str]], timeout: float = 6 * 3600.0
) -> tuple[float, dict[Id, float]]:
    """SPICE 1.0 (Anderson et al. 2016): F1 over the tuples of scene graphs; the mean and that of each image, 0 to 1.

    It takes 8 GB of memory. timeout: as in `meteor`.
    """
    _required("spice")
    candidates, truths = PTB.of_all(predictions, references)
    rows = [
        {"image_id": index, "test": candidate, "refs": truths[id]}
        for index, (id, candidate) in enumerate(candidates.items())
    ]
    with tempfile.TemporaryDirectory() as name:
        asked, answered, cache = Path(name, "in.json"), Path(name, "out.json"), Path(name, "cache")
        cache.mkdir()
        asked.write_text(json.dumps(rows))
        files = [str(asked), "-cache", str(cache), "-out", str(answered)]
        _run("SPICE", ["java", "-Xmx8G", "-jar", str(_spice("spice-1.0.jar")), *files, "-subset", "-silent"], timeout)
        try:
            scores = {row["image_id"]: float(row["scores"]["All"]["f"]) for row in json.loads(answered.read_text())}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"SPICE left no scores that can be read: {error!r}") from None
    if scores.keys() != set(range(len(rows))) or not all(map(math.isfinite, scores.values())):
        raise ValueError(f"SPICE gave {len(scores)} scores for {len(rows)} captions, or some that are no numbers")
    return sum(scores.values()) / len(scores), {id: scores[index] for index, id in enumerate(candidates)}


def _folder() -> Path | None:
    """Of pycocoevalcap, without importing it."""
    found = importlib.util.find_spec("pycocoevalcap")
    places = list(found.submodule_search_locations or []) if found else []
    return Path(places[0]) if places else None


def _spice(name: str) -> Path:
    return (_folder() or Path()) / "spice" / name


def _required(metric: str) -> Path:
    folder, reasons = _folder(), unavailable()
    if metric in reasons or folder is None:
        raise ValueError(f"{metric} cannot run: {reasons.get(metric)}")
    return folder


def _run(name: str, command: list[str], timeout: float, given: str = "") -> str:
    """What the program prints; it reads and writes at once, so that no pipe can fill and stand still."""
    try:
        done = subprocess.run(command, input=given.encode(), capture_output=True, timeout=timeout, check=True)
    except subprocess.TimeoutExpired:
        raise ValueError(f"{name} was stopped: it had not finished after {timeout:g} seconds") from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr.decode(errors="replace").strip() or "no message").splitlines()[-1]
        raise ValueError(f"{name} ended with exit code {error.returncode}: {last}") from None
    except OSError as error:
        raise ValueError(f"{name} could not be started: {error}") from None
    return done.stdout.decode(errors="replace")
