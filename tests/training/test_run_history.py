"""The history in a checkpoint, whole and hostile."""

import pytest

from prefixvlm.report.plots import curves
from prefixvlm.report.progress import prefixes, progress
from prefixvlm.training.run_history import history

RECORD = {"step": 1, "name": "val/loss", "value": 2.0}
EXAMPLE = {"step": 1, "task": "vqa", "key": "a", "id": "a-0", "prompt": "?", "prediction": "x", "references": ["y"],
           "correct": True}  # fmt: skip


def test_a_history_is_returned_as_it_was_stored():
    stored = {"records": [RECORD, RECORD | {"value": float("nan")}], "examples": [EXAMPLE | {"nearest": ["b"]}]}
    found = history({"callbacks": {"History": stored}})
    assert found["records"][0] == RECORD
    assert found["examples"] == stored["examples"]
    for checkpoint in ({}, {"callbacks": {}}, {"callbacks": {"Other": 3}}):
        assert history(checkpoint) == {"records": [], "examples": []}


@pytest.mark.parametrize(
    ("callbacks", "field"),
    [
        ([], "Expected `object`, got `array`"),
        ({"History": 3}, "Expected `object`, got `int`"),
        ({"History": {"records": 3}}, "at `records`"),
        ({"History": {"records": [3]}}, "at `records[0]`"),
        ({"History": {"records": [{"step": 1}]}}, "missing required field"),
        *(({"History": {"records": [RECORD | {name: value}]}}, f"at `records[0].{name}`") for name, value in (
            ("step", -1), ("step", 10**400), ("step", "x"), ("step", None), ("name", 3), ("value", "x"),
            ("value", 10**400), ("value", [1]),
        )),
        *(({"History": {"examples": [EXAMPLE | {name: value}]}}, f"at `examples[0].{name}") for name, value in (
            ("step", None), ("task", ["a"]), ("id", {}), ("references", "yes"), ("references", [3]), ("correct", "x"),
            ("nearest", 3), ("nearest", [None]), ("prompt", None), ("key", 1),
        )),
    ],
)  # fmt: skip
def test_a_hostile_history_is_left_out_with_a_warning(callbacks, field, caplog):
    assert history({"callbacks": callbacks}) == {"records": [], "examples": []}
    assert field in caplog.text


def test_whatever_has_the_form_is_drawn():
    values = (1e308, -1e308, float("inf"), float("nan"), 0.0)
    records = [RECORD | {"name": name, "value": value} for name in ("a/\ud800", "", "/", "$x") for value in values]
    found = history({"callbacks": {"History": {"records": records, "examples": [EXAMPLE | {"nearest": []}]}}})
    assert curves(found["records"])
    assert progress(found["examples"])["vqa"].steps == [1]
    assert prefixes(found["examples"]) is None
