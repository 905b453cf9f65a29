"""METEOR and SPICE of raw captions, by their authors' Java programs.

The programs are in the package pycocoevalcap, which prefixvlm does not require; `unavailable` returns what is missing.
As in the official pipeline they read PTB tokens, and one process scores all captions.
"""

import importlib.util
import json
import math
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefixvlm.metrics.captions.words import PTB, Words
from prefixvlm.metrics.pairs import Id
from prefixvlm.strict_json import read_json

_CORENLP = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


def unavailable(words: Words = PTB) -> dict[str, str]:
    """Return why `meteor` or `spice` cannot run here, in one sentence each; a metric that can run is not in the result.

    words: the tokenizer of the other scores.
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
    """Return METEOR 1.5 (Denkowski and Lavie 2014) of the corpus, from summed statistics, and of each image; 0 to 1.

    timeout: seconds until the program is stopped. Raises ValueError if it cannot run or fails.
    """
    jar = _required("meteor") / "meteor/meteor-1.5.jar"
    candidates, truths = PTB.of_all(predictions, references)
    # The options of pycocoevalcap's meteor.py, which decide the score.
    command = ["java", "-Xmx2G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
    # Line breaks and METEOR's separator cannot occur: PTB tokens have neither ("|||" is three tokens).
    lines = [" ||| ".join(("SCORE", *truths[id], candidate)) for id, candidate in candidates.items()]
    statistics = _run("METEOR", command, timeout, "\n".join(lines) + "\n").splitlines()
    if len(statistics) != len(lines):
        raise ValueError(f"METEOR printed {len(statistics)} lines for {len(lines)} captions")
    scores = _run("METEOR", command, timeout, " ||| ".join(("EVAL", *statistics)) + "\n").split()
    if len(scores) != len(lines) + 1:
        raise ValueError(f"METEOR printed {len(scores)} scores for {len(lines)} captions and the corpus")
    return float(scores[-1]), dict(zip(candidates, map(float, scores[:-1]), strict=True))


def spice(
    predictions: Mapping[Id, str], references: Mapping[Id, Sequence[str]], timeout: float = 6 * 3600.0
) -> tuple[float, dict[Id, float]]:
    """Return SPICE 1.0 (Anderson et al. 2016), F1 over tuples of scene graphs: the mean and that of each image, 0 to 1.

    Needs 8 GB of memory. timeout and errors: as in `meteor`.
    """
    _required("spice")
    candidates, truths = PTB.of_all(predictions, references)
    rows = [
        {"image_id": index, "test": candidate, "refs": truths[id]}
        for index, (id, candidate) in enumerate(candidates.items())
    ]
    # pycocoevalcap writes these files and the cache into its own package folder, which may be read-only or shared.
    with tempfile.TemporaryDirectory() as name:
        inputs, outputs, cache = Path(name, "in.json"), Path(name, "out.json"), Path(name, "cache")
        cache.mkdir()
        inputs.write_text(json.dumps(rows))
        files = [str(inputs), "-cache", str(cache), "-out", str(outputs)]
        _run("SPICE", ["java", "-Xmx8G", "-jar", str(_spice("spice-1.0.jar")), *files, "-subset", "-silent"], timeout)
        try:
            written = read_json(outputs, list[Any], "the output of SPICE")
            scores = {row["image_id"]: float(row["scores"]["All"]["f"]) for row in written}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"SPICE wrote no readable scores: {error!r}") from None
    # json reads NaN as a number, and one of them would make the mean NaN.
    if scores.keys() != set(range(len(rows))) or not all(map(math.isfinite, scores.values())):
        raise ValueError(f"SPICE wrote {len(scores)} scores for {len(rows)} captions, or some that are not numbers")
    return sum(scores.values()) / len(scores), {id: scores[index] for index, id in enumerate(candidates)}


def _folder() -> Path | None:
    """Return the folder of pycocoevalcap, None if it is not installed."""
    # find_spec does not run the package's code.
    spec = importlib.util.find_spec("pycocoevalcap")
    locations = list(spec.submodule_search_locations or []) if spec else []
    return Path(locations[0]) if locations else None


def _spice(name: str) -> Path:
    return (_folder() or Path()) / "spice" / name


def _required(metric: str) -> Path:
    folder, reasons = _folder(), unavailable()
    if metric in reasons or folder is None:
        raise ValueError(f"{metric} cannot run: {reasons.get(metric)}")
    return folder


def _run(name: str, command: list[str], timeout: float, inputs: str = "") -> str:
    """Return the output of a program. Raises ValueError if it fails, does not start or runs too long."""
    try:
        # run() writes and reads at the same time: METEOR answers each line at once, and its full output pipe would
        # otherwise block it, and then the writer.
        result = subprocess.run(command, input=inputs.encode(), capture_output=True, timeout=timeout, check=True)
    except subprocess.TimeoutExpired:
        raise ValueError(f"{name} was stopped: it had not finished after {timeout:g} seconds") from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr.decode(errors="replace").strip() or "no message").splitlines()[-1]
        raise ValueError(f"{name} ended with exit code {error.returncode}: {last}") from None
    except OSError as error:
        raise ValueError(f"{name} could not be started: {error}") from None
    return result.stdout.decode(errors="replace")
