"""Tables of scores: rows and columns as a task names them."""

from prefixvlm.report.task_views import score_table


def test_columns_are_texts_in_the_order_of_the_scores():
    names = {"near": ["animals", "first"], "far": ["animals", "at all"], "gone": ["tools", "first"]}
    scored = {"scores": {"near": 3.0, "far": 4.0, "other": 5.0}, "blind": {"near": 1.0}, "tables": names}
    (row,) = score_table(scored)
    assert row.name == "animals"
    assert list(row.values.items()) == [("first", (3.0, 1.0)), ("at all", (4.0, None))]
