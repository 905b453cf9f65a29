"""Exact match and the table of answer metrics, on hand-made cases."""

import pytest

from prefixvlm.metrics.exact_match import exact_match, exact_matches
from prefixvlm.metrics.vqa.answer_metrics import ANSWER_METRICS, answer_metric, normalise_answer


def test_exact_match_takes_any_reference() -> None:
    predictions = ["A  red\ncircle.", "a red circle", "", "red", "a b."]
    references = [["a red circle"], ["a blue circle", "A red circle. "], ["circle"], ["a red"], ["a b.."]]
    assert exact_matches(predictions, references) == [True, True, False, False, False]
    assert exact_match(predictions, references) == 40.0


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        (["a"], [], "1 predictions but 0"),
        ([], [], "no predictions"),
        (["a"], [[]], "item 0 has no reference"),
        (["a"], ["a"], "one string"),
    ],
)
def test_lists_must_match(predictions, references, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        exact_match(predictions, references)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" The  Red circle.", "red circle"),
        ("two dogs!", "2 dogs"),
        ("a", "a"),
        ("an A", "an a"),
        ("?", "?"),
        ("", ""),
        ("it's 3.5", "it's 3.5"),
        ("Über-Café", "über-café"),
    ],
)
def test_normalise_answer(text: str, answer: str) -> None:
    assert normalise_answer(text) == answer


@pytest.mark.parametrize(
    ("prediction", "references", "score"),
    [("Yes.", ["yes"], 1), ("red", ["blue"], 0), ("", ["no"], 0), ("two", ["3", "2"], 1)],
)
def test_exact_match_normalised_takes_any_reference(prediction: str, references: list[str], score: float) -> None:
    assert ANSWER_METRICS["exact_match"].score(prediction, references) == score


# Cases in which variants differ. Each tuple: exact_match, vqa, vqa_normalise_both, vqa_lavis, gqa, gqa_strict, vizwiz.
@pytest.mark.parametrize(
    ("prediction", "references", "scores"),
    [
        ("yes", ["yes"] * 10, (1, 1, 1, 1, 1, 1, 1)),
        ("Yes.", ["yes"] * 10, (1, 0, 1, 1, 1, 0, 1)),
        ("yes", ["Yes"] * 10, (1, 0, 1, 0, 1, 0, 0)),
        ("two", ["two"] * 5 + ["3"] * 5, (1, 1, 1, 0, 1, 1, 0)),
        ("t-shirt", ["t-shirt"] * 5 + ["shirt"] * 5, (1, 1, 1, 1, 1, 1, 0)),
        ("dont know", ["don't know"] * 5 + ["no"] * 5, (0, 1, 1, 1, 1, 0, 0)),
    ],
)
def test_variants_differ_where_they_should(prediction: str, references: list[str], scores: tuple[float, ...]) -> None:
    names = ("exact_match", "vqa", "vqa_normalise_both", "vqa_lavis", "gqa", "gqa_strict", "vizwiz")
    assert tuple(ANSWER_METRICS[name].score(prediction, references) for name in names) == scores


def test_each_metric_has_its_own_variant() -> None:
    assert len({metric.variant for metric in ANSWER_METRICS.values()}) == len(ANSWER_METRICS) == 8


@pytest.mark.parametrize("name", ANSWER_METRICS)
@pytest.mark.parametrize(("references", "message"), [([], "no reference"), ("yes", "one string, 'yes'")])
def test_references_are_a_list_and_not_empty(name: str, references: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ANSWER_METRICS[name].score("yes", references)


def test_an_unknown_metric_is_an_error_that_lists_them() -> None:
    assert answer_metric("vqa") is ANSWER_METRICS["vqa"]
    with pytest.raises(ValueError, match="'vqa2'.*exact_match, vqa, "):
        answer_metric("vqa2")


def test_spaces_in_scripts_without_spaces_do_not_matter() -> None:
    """Tokenizers such as Chinese BERT's decode with spaces between the characters."""
    assert exact_matches(["红 色 的 圆", "红 2 个"], [["红色的圆"], ["红2个"]]) == [True, False]
