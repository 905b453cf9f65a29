"""Compare ranks and recall at k with plain loops and hand-made cases."""

import numpy as np
import pytest
import torch

from prefixvlm.metrics.retrieval import ranks, retrieval_scores


def naive_rank(row: list[float], right: set[int]) -> int:
    """Sort the row, with the wrong candidates first among equals."""
    order = sorted(range(len(row)), key=lambda index: (-row[index], index in right))
    # The first right candidate: only wrong ones are before it.
    return next(place for place, index in enumerate(order) if index in right)


@pytest.mark.parametrize("levels", [4, 10**6])  # with many ties, and with none
def test_ranks_equal_plain_loops(levels: int) -> None:
    rng = np.random.default_rng(levels)
    scores = rng.integers(levels, size=(30, 25)).astype(float)
    positives = [set(rng.choice(25, size=rng.integers(1, 5), replace=False).tolist()) for _ in scores]
    found = ranks(scores, positives).tolist()
    assert found == [naive_rank(row, right) for row, right in zip(scores.tolist(), positives, strict=True)]
    assert min(found) < 5 < 10 < max(found)


def test_constant_scores_rank_last() -> None:
    assert ranks(np.zeros((6, 6)), [{i} for i in range(6)]).tolist() == [5] * 6
    assert ranks([[float("nan"), 0.0, 0.0]], [{0}]).tolist() == [2]


def test_right_candidates_do_not_push_each_other_back() -> None:
    row = [5.0, 9.0, 9.0, 7.0, 7.0]  # two right ones tie at 9; at 7 a right and a wrong one tie
    assert ranks([row, row, row], [{1, 2}, {3, 0}, {1, 3}]).tolist() == [0, 3, 1]


def test_both_directions_with_several_captions() -> None:
    scores = np.array(
        [  # captions 0, 2 and 4 belong to image 0, captions 1 and 3 to image 1
            [0.1, 0.8, 0.2, 0.3, 0.9],
            [0.5, 0.4, 0.1, 0.6, 0.7],
        ]
    )
    expected = {
        "image_to_text_recall_1": 50.0,  # image 0 finds caption 4; image 1 finds another's caption 4
        "image_to_text_recall_2": 100.0,  # then its own caption 3
        "text_to_image_recall_1": 60.0,  # captions 2, 3, 4
        "text_to_image_recall_2": 100.0,
    }
    assert retrieval_scores(scores, [0, 1, 0, 1, 0], ks=(1, 2)) == pytest.approx(expected)
    assert retrieval_scores(torch.tensor(scores), torch.tensor([0, 1, 0, 1, 0]), ks=(1, 2)) == pytest.approx(expected)


def test_k_may_exceed_the_candidates() -> None:
    assert list(retrieval_scores(np.eye(2), [0, 1])) == [
        f"{direction}_recall_{k}" for direction in ("image_to_text", "text_to_image") for k in (1, 5, 10)
    ]
    assert set(retrieval_scores(np.eye(2), [0, 1]).values()) == {100.0}
    assert retrieval_scores(1 - np.eye(2), [0, 1])["text_to_image_recall_1"] == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ranks(np.eye(2), [{0}, set()]), r"query 1 has the right candidates \[\], of 2"),
        (lambda: ranks(np.eye(2), [{0}, {2}]), r"query 1 has the right candidates \[2\], of 2"),
        (lambda: ranks(np.eye(2), [{-1}, {0}]), r"query 0 has the right candidates \[-1\]"),
        (lambda: ranks(np.eye(2), [{0}]), r"shape \(2, 2\) do not fit .* 1 queries"),
        (lambda: ranks(np.zeros((0, 3)), []), "0 queries"),
        (lambda: retrieval_scores(np.eye(2), [0]), r"shape \(2, 2\) do not fit 1 captions"),
        (lambda: retrieval_scores(np.eye(2), [0, 0]), r"query 1 has the right candidates \[\]"),
        (lambda: retrieval_scores(np.eye(2), [0, 2]), r"query 1 has the right candidates \[2\]"),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
