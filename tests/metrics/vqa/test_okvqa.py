"""OK-VQA's stems with stand-ins for NLTK, and with NLTK itself if it and its data are installed."""

import hashlib
import json
import sys
from types import SimpleNamespace

import pytest

from prefixvlm.metrics.vqa import okvqa
from prefixvlm.metrics.vqa.answer_metrics import ANSWER_METRICS
from prefixvlm.metrics.vqa.okvqa import EXCEPTIONS, okvqa_accuracy, stem, stem_words


@pytest.fixture(autouse=True)
def _forget_stems():  # type: ignore[no-untyped-def]
    stem.cache_clear()
    yield
    stem.cache_clear()


def test_the_first_matching_rule_applies() -> None:
    tagged = [
        ("riding", "VBG"),
        ("surfing", "NNS"),
        ("dogs", "NNS"),
        ("Kings", "NNPS"),
        ("bus", "NN"),
        ("Riding", "NN"),
    ]
    stems = stem_words(tagged, lambda word: f"verb({word})", lambda word: f"one({word})")
    assert stems == ["ride", "verb(surfing)", "one(dogs)", "one(Kings)", "bus", "verb(Riding)"]


def test_the_exceptions_are_those_of_openflamingo() -> None:
    table = json.dumps(sorted(EXCEPTIONS.items()))
    assert (len(EXCEPTIONS), hashlib.sha256(table.encode()).hexdigest()[:16]) == (168, "2566e822cef343fc")


def test_the_prediction_is_stemmed_and_the_answers_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(okvqa, "stem", {"surfing": "surf", "surf": "surf"}.__getitem__)
    assert okvqa_accuracy("surfing", ["surf"] * 2 + ["swim"] * 8) == pytest.approx(0.6)
    assert okvqa_accuracy("surf", ["surfing"] * 5 + ["swim"] * 5) == 0


@pytest.mark.parametrize("name", ["nltk", "inflection"])
def test_a_missing_package_is_an_error_with_the_command_to_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nltk", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "inflection", SimpleNamespace())
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=f"needs the package {name}: run `pip install .*punkt_tab"):
        ANSWER_METRICS["okvqa"].score("dogs", ["dog"])


def test_missing_data_is_an_error_with_the_command_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def tokenize(text: str) -> list[str]:
        raise LookupError("punkt_tab")

    nltk = SimpleNamespace(
        stem=SimpleNamespace(WordNetLemmatizer=SimpleNamespace),
        tokenize=SimpleNamespace(word_tokenize=tokenize),
        pos_tag=list,
    )
    monkeypatch.setitem(sys.modules, "nltk", nltk)
    monkeypatch.setitem(sys.modules, "inflection", SimpleNamespace(singularize=str))
    with pytest.raises(ValueError, match="data of NLTK .*averaged_perceptron_tagger_eng wordnet"):
        stem("dogs")


@pytest.mark.parametrize(
    ("text", "stemmed"),
    [("surfing", "surf"), ("riding dogs", "ride dog"), ("glasses", "glass"), ("it's running", "it 's run"), ("", "")],
)
def test_stems_with_nltk(text: str, stemmed: str) -> None:
    nltk = pytest.importorskip("nltk", reason="NLTK is not installed")
    pytest.importorskip("inflection", reason="inflection is not installed")
    try:
        for data in ("tokenizers/punkt_tab", "taggers/averaged_perceptron_tagger_eng", "corpora/wordnet"):
            nltk.data.find(data)
    except LookupError:
        pytest.skip("NLTK's data is not installed")
    assert stem(text) == stemmed
