"""METEOR and SPICE: missing programs, failing programs, and METEOR against the official one."""

import stat
from pathlib import Path

import pytest

from prefixvlm.metrics.captions import java
from prefixvlm.metrics.ptb.tokenizer import ptb_tokenize

PREDICTIONS = {"b": "A man rides a horse.", "a": "", "c": "caf\u00e9 ||| x", "d": "..."}
REFERENCES = {
    "a": ["a dog"],
    "b": ["A man on a horse", "The man's horse"],
    "c": ["a ||| b", "le caf\u00e9"],
    "d": ["...", ""],
}
GOLDEN = 0.32269103944577215  # of pycocoevalcap 1.2


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty package pycocoevalcap and a java that runs tmp_path/program."""
    folder = tmp_path / "pycocoevalcap"
    (folder / "meteor").mkdir(parents=True)
    (folder / "spice/lib").mkdir(parents=True)
    program = tmp_path / "java"
    program.write_text(f'#!/bin/sh\nexec sh {tmp_path}/program "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(java, "_folder", lambda: folder)
    return folder


def complete(package: Path, program: str) -> None:
    for name in ("meteor/meteor-1.5.jar", "spice/spice-1.0.jar", *(f"spice/lib/{jar}" for jar in java._CORENLP)):
        (package / name).touch()
    (package.parent / "program").write_text(program)


def test_without_java_or_package_nothing_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "_folder", lambda: None)
    monkeypatch.setattr("shutil.which", lambda name: "/bin/java")
    assert "pip install pycocoevalcap" in java.unavailable()["meteor"]
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert java.unavailable() == dict.fromkeys(("meteor", "spice"), "there is no java on the PATH")
    with pytest.raises(ValueError, match="meteor cannot run: there is no java"):
        java.meteor({0: "a"}, {0: ["a"]})


def test_missing_archives_are_named(package: Path) -> None:
    assert "meteor-1.5.jar" in java.unavailable()["meteor"]
    assert "stanford-corenlp-3.6.0-models.jar" in java.unavailable()["spice"]
    assert "stanford-corenlp-full-2015-12-09.zip" in java.unavailable()["spice"]
    complete(package, "")
    assert java.unavailable() == {}


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("sleep 60", "METEOR was stopped: it had not finished after 0.3 seconds"),
        ("echo one >&2; echo out of memory >&2; exit 3", "METEOR ended with exit code 3: out of memory"),
        ("cat > /dev/null; echo 1.0", "METEOR printed 1 lines for 4 captions"),
    ],
)
def test_a_failing_program_is_an_error_of_one_sentence(package: Path, program: str, message: str) -> None:
    complete(package, program)
    with pytest.raises(ValueError, match=message):
        java.meteor(PREDICTIONS, REFERENCES, timeout=0.3 if "sleep" in program else 60)


def test_many_captions_pass_through_the_pipes(package: Path) -> None:
    """A program that prints a line for each one it reads fills its output pipe while it still gets input."""
    complete(package, 'read first; case $first in EVAL*) seq 5001;; *) echo "$first"; exec cat;; esac')
    score, scores = java.meteor(dict.fromkeys(range(5000), "a dog " * 20), {id: ["a cat"] for id in range(5000)})
    assert (score, scores[0], scores[4999]) == (5001, 1, 5000)


ROWS = '[{"image_id": 1, "scores": {"All": {"f": %s}}}, {"image_id": 0, "scores": {"All": {"f": 0.2}}}]'


def spice_that_writes(text: str) -> str:
    return f"echo '{text}' > \"$8\"\n"  # java -Xmx8G -jar JAR IN -cache CACHE -out OUT


def test_spice_gives_each_image_its_score(package: Path) -> None:
    """Use a stand-in that writes the images in another order; the real SPICE needs archives of 384 MB."""
    complete(package, spice_that_writes(ROWS % "0.4"))
    score, scores = java.spice({"x": "a dog", "y": "a cat"}, {"y": ["a cat"], "x": ["a dog"]})
    assert score == pytest.approx(0.3)
    assert scores == {"x": 0.2, "y": 0.4}


@pytest.mark.parametrize("text", ["", "[]", "{}", "[{}]", ROWS % '"NaN"'])
def test_spice_without_readable_scores_is_an_error(package: Path, text: str) -> None:
    complete(package, spice_that_writes(text))
    with pytest.raises(ValueError, match="SPICE wrote"):
        java.spice({0: "a dog", 1: "a cat"}, {0: ["a dog"], 1: ["a cat"]})


@pytest.mark.slow
@pytest.mark.skipif("meteor" in java.unavailable(), reason=f"METEOR cannot run: {java.unavailable().get('meteor')}")
def test_meteor_equals_the_official_one() -> None:
    from pycocoevalcap.meteor.meteor import Meteor

    score, scores = java.meteor(PREDICTIONS, REFERENCES)
    assert score == pytest.approx(GOLDEN)
    official = {id: [ptb_tokenize(text)] for id, text in PREDICTIONS.items()}
    truths = {id: [ptb_tokenize(text) for text in REFERENCES[id]] for id in PREDICTIONS}
    scorer = Meteor()
    theirs, items = scorer.compute_score(truths, official)
    for pipe in (scorer.meteor_p.stdout, scorer.meteor_p.stderr):  # which it leaves open
        pipe.close()
    assert score == pytest.approx(theirs, abs=1e-9)
    assert list(scores.values()) == pytest.approx(items, abs=1e-9)
