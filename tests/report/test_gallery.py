"""The gallery, the tables of classes, and the text table."""

from typing import Any

from prefixvlm.report.classes import class_view
from prefixvlm.report.gallery import frame, gallery, gallery_keys
from prefixvlm.report.table import text_table


def test_gallery_has_wrong_images_before_right_ones(predictions: list[dict[str, Any]]) -> None:
    cards = gallery(predictions, limit=8)
    for task, found in cards.items():
        assert [bool(card.num_wrong) for card in found] == [True] * 4 + [False] * 4, task
        assert len({card.key for card in found}) == 8
    card = cards["vqa"][0]
    assert (card.num_wrong, card.num_rows) == (1, 3)
    assert [row["correct"] for row in card.rows] == [False, True, True]
    keys = gallery_keys(predictions, limit=8)
    assert len(keys) == len(set(keys))
    assert set(keys) == {card.key for found in cards.values() for card in found}


def test_gallery_fills_up_with_the_other_kind(predictions: list[dict[str, Any]]) -> None:
    captions = predictions[:40]
    assert [bool(card.num_wrong) for card in gallery(captions, 24)["captioning"]] == [True] * 10 + [False] * 14
    assert len(gallery(captions[:12], 24)["captioning"]) == 12
    assert [card.num_wrong for card in gallery(captions[:12], 8)["captioning"]] == [1] * 6 + [0] * 2
    assert gallery([]) == {}


def test_half_correct_counts_as_right(predictions: list[dict[str, Any]]) -> None:
    captions = [line | {"correct": share} for line, share in zip(predictions, (0.3, 0.6), strict=False)]
    assert [card.num_wrong for card in gallery(captions)["captioning"]] == [1, 0]


def test_frame_of_prompts() -> None:
    def prompts(*texts: str) -> list[dict[str, Any]]:
        return [{"prompt": text} for text in texts]

    assert frame(prompts("Question: is it red? Answer:", "Question: is it blue? Answer:")) == ("Question: ", " Answer:")
    assert frame(prompts("is it red?", "is it blue?")) == ("", "")
    assert frame(prompts("A photo of", "A photo of")) == ("", "")
    assert frame([]) == ("", "")


def test_a_correct_prediction_has_the_class_of_the_reference(predictions: list[dict[str, Any]]) -> None:
    lines = [line | {"prediction": "Yes it is"} for line in predictions if line["task"] == "vqa" and line["correct"]]
    view = class_view(lines)
    assert view is not None
    assert (view.order, view.labels, view.counts) == (["yes"], ["yes"], [[100]])
    free = [line | {"references": [str(place)]} for place, line in enumerate(lines)]
    assert class_view(free) is None
    assert class_view([]) is None


def test_many_classes_are_cut(predictions: list[dict[str, Any]]) -> None:
    lines = [
        predictions[0] | {"references": [str(place % 50)], "prediction": "x", "correct": False} for place in range(150)
    ]
    view = class_view(lines)
    assert view is not None
    assert (len(view.order), view.num_hidden) == (40, 11)
    assert (len(view.labels), view.labels[-1]) == (21, "(other)")
    assert sum(map(sum, view.counts)) == 150


def test_text_table_is_aligned(result: dict[str, Any]) -> None:
    assert text_table(result).splitlines() == [
        "task        score        value  95 % interval  blind       n",
        "──────────  ───────────  ─────  ─────────────  ─────  ──────",
        "captioning  exact_match  75.00  60.00 … 88.00  80.50      40",
        "captioning  cider        0.500              \u2013  0.250      40",
        "vqa         accuracy     83.33              \u2013      \u2013  12,000",
    ]


def test_text_table_compares_with_the_baselines(result: dict[str, Any]) -> None:
    def tested(difference: float, p_value: float) -> dict[str, Any]:
        return {"difference": difference, "interval": [difference - 0.5, difference + 0.5], "p_value": p_value}

    result["tasks"]["captioning"] |= {
        "shuffled": {"cider": 0.1},
        "differences": {"blind": {"exact_match": tested(-5.5, 0.0001)}, "shuffled": {"cider": tested(0.4, 0.25)}},
    }
    table = text_table(result).splitlines()
    assert table[0] == "task        score        value  95 % interval  blind  shuffled       n"
    assert table[3].split()[-3:] == ["0.250", "0.100", "40"]
    assert [line.replace("\u2212", "-").replace("\u2013", "~") for line in table[5:]] == [
        "",
        "blind: the same evaluation with every image black",
        "shuffled: the model's own outputs, each given to another image",
        "task        score        over blind  95 % interval       p  over shuffled    95 % interval      p",
        "──────────  ───────────  ──────────  ─────────────  ──────  ─────────────  ───────────────  ─────",
        "captioning  exact_match       -5.50  -6.00 … -5.00  <0.001              ~                ~      ~",
        "captioning  cider                 ~              ~       ~         +0.400  -0.100 … +0.900  0.250",
    ]


def test_text_table_has_the_spread_only_of_trials(result: dict[str, Any]) -> None:
    result["tasks"]["vqa"] |= {"spread": {"accuracy": 1.25}}
    table = text_table(result).splitlines()
    assert table[0].split()[:7] == ["task", "score", "value", "±", "spread", "95", "%"]
    assert table[2].split()[2:5] == ["75.00", "\u2013", "60.00"]
    assert table[4].split()[2:5] == ["83.33", "1.25", "\u2013"]
    assert len({len(line) for line in table}) == 1


def test_text_table_shows_the_first_twenty_scores_of_a_task(result: dict[str, Any]) -> None:
    result["tasks"]["vqa"]["scores"] |= {f"accuracy_{n}": 50.0 for n in range(64)}
    table = text_table(result).splitlines()
    assert len(table) == 2 + 2 + 20 + 1
    assert [line.split()[1] for line in (table[4], table[23])] == ["accuracy", "accuracy_18"]
    assert table[-1] == "(45 more scores of vqa are in metrics.json)"
    result["tasks"]["captioning"]["scores"] = {}
    assert len(text_table(result).splitlines()) == 2 + 20 + 1


def test_cards_of_predictions_without_references(predictions: list[dict[str, Any]]) -> None:
    unscored = [line | {"correct": None} for line in predictions]
    cards = gallery(unscored)["vqa"]
    assert len(cards) == 24
    assert {(card.num_wrong, card.num_right, card.num_rows) for card in cards} == {(0, 0, 3)}
    assert class_view([line | {"references": []} for line in unscored]) is None


def test_captions_are_shown_by_their_score_from_the_lowest_to_the_highest(predictions: list[dict[str, Any]]) -> None:
    captions = [line | {"scores": {"cider": float(7 * n % 40)}} for n, line in enumerate(predictions[:40])]
    shown = gallery(captions, 5, {"captioning": "cider"})["captioning"]
    assert [card.score for card in shown] == [0, 9, 19, 29, 39]
    assert {(card.num_wrong, card.num_right) for card in shown} == {(0, 0)}
    assert [card.key for card in shown] == gallery_keys(captions, 5, {"captioning": "cider"})
    assert len(gallery(captions, 99, {"captioning": "cider"})["captioning"]) == 40
    assert [card.score for card in gallery(captions, 1, {"captioning": "cider"})["captioning"]] == [0]
    unscored = [line | {"scores": {}} for line in captions]
    assert gallery(unscored, 8, {"captioning": "cider"}) == gallery(unscored, 8)
