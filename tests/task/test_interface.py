"""The base class of tasks: options of decoding, one Prediction per row, slices of a batch, the report."""

import random

import pytest
import torch
from PIL import Image

from prefixvlm.batch import IMAGE_ID, Row
from prefixvlm.data.sample import Question, Sample
from prefixvlm.model import generation
from prefixvlm.model.stop import truncate_at_stop
from prefixvlm.task import interface
from prefixvlm.task.captioning import Captioning
from prefixvlm.task.fast_binding import FastBinding
from prefixvlm.task.results.prediction import Prediction, item_mean_score
from prefixvlm.task.vqa import Vqa
from tests.conftest import collator_of, tiny_model


@pytest.mark.parametrize("task", [Captioning, Vqa])
@pytest.mark.parametrize(
    ("decoding", "words"),
    [
        ({"method": "beams"}, ["'beams'", "greedy", "beam", "nucleus"]),
        ({"method": "beam", "num_beam": 3}, ["num_beam ", "num_beams"]),
        ({"method": "greedy", "num_beams": 3}, ["num_beams", "max_new_tokens"]),
        ({"method": "nucleus", "num_samples": 2}, ["num_samples", "top_p", "temperature", "seed"]),
        ({"model": 1}, ["decoding.model ", "max_new_tokens"]),
    ],
)
def test_wrong_decoding_is_an_error_at_construction(task, decoding, words):
    with pytest.raises(ValueError, match=rf"task\.{task.name}\.decoding") as caught:
        task(decoding=decoding)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "decoding",
    [
        {"method": "beam", "num_beams": 2, "length_penalty": 0.5, "max_new_tokens": 3},
        {"method": "nucleus", "top_p": 0.5, "temperature": 2.0, "seed": 3, "max_new_tokens": 3},
        {},
    ],
)
def test_right_decoding_reaches_the_decoder(images, decoding):
    model = tiny_model("gpt2")
    task = Captioning(decoding=decoding)
    batch = collator_of(model)([row for i in images for row in task.prompt_rows(Sample("k", i, ("c",)))], False)
    keywords = {name: value for name, value in task.decoding.items() if name != "stop"}
    ids = generation.METHODS[keywords.pop("method")](model, batch, **keywords)
    expected = [
        text.strip().split("\n")[0].strip() for text in model.lm.tokenizer.batch_decode(ids, skip_special_tokens=True)
    ]
    assert [p.prediction for p in task.predict(model, batch)] == expected
    assert max(map(len, ids)) <= decoding.get("max_new_tokens", 32)


def questions(key, *texts):
    return tuple(Question(f"{key}-{i}", text, (key,)) for i, text in enumerate(texts))


def test_rows_with_equal_input_each_have_a_prediction():
    model, black = tiny_model("gpt2"), Image.new("RGB", (8, 8))
    task = Vqa(decoding={"max_new_tokens": 4})
    samples = [
        Sample("a", black, (), questions("a", "what colour?", "how many?")),
        Sample("b", black, (), questions("b", "how many?")),
        Sample("c", black, (), questions("c", "what colour?", "how many?", "is it?")),
    ]
    rows = [row for sample in samples for row in task.prompt_rows(sample)]
    collate = collator_of(model)
    batch = collate(rows, supervised=False)
    assert len(batch.input_ids) == 3
    together = sorted(task.predict(model, batch), key=lambda p: p.id)
    alone = [p for row in rows for p in task.predict(model, collate([row], supervised=False))]
    assert together == alone
    assert [(p.key, p.id, p.references) for p in together] == [
        ("a", "a-0", ("a",)), ("a", "a-1", ("a",)), ("b", "b-0", ("b",)),
        ("c", "c-0", ("c",)), ("c", "c-1", ("c",)), ("c", "c-2", ("c",)),
    ]  # fmt: skip


def mixed_rows(images):
    """Return rows of different widths, without images, with one and with two, shared or not."""
    return [
        Row((images[0], "ab"), "x", "0", "0"),
        Row((images[1], "a longer text than the others have"), "x", "1", "1"),
        Row((images[0], "c"), "x", "2", "2"),
        Row((images[3], "and", images[1], "d"), "x", "3", "3"),
        Row(("text",), "x", "4", "4"),
        Row((images[1], "e"), "x", "5", "5"),
        Row((images[2], "f"), "x", "6", "6"),
    ]


@pytest.mark.parametrize("supervised", [True, False])
@pytest.mark.parametrize("max_rows", [1, 2, 3, 7, 100])
def test_split_gives_contiguous_chunks_with_their_images_only(images, max_rows, supervised):
    rows, collate = mixed_rows(images), collator_of(tiny_model("gpt2"))
    batch = collate(rows, supervised)
    parts = list(batch.split(max_rows))
    assert [len(part.input_ids) for part in parts[:-1]] == [max_rows] * (len(parts) - 1)
    assert 0 < len(parts[-1].input_ids) <= max_rows
    first = 0
    for part in parts:
        chunk = rows[first : first + len(part.input_ids)]
        first += len(chunk)
        if not any(isinstance(piece, Image.Image) for row in chunk for piece in row.prompt):
            assert len(part.pixel_values) == len(part.image_index) == 0
            continue
        expected = collate(chunk, supervised)
        for name in ("input_ids", "attention_mask", "labels"):
            torch.testing.assert_close(getattr(part, name), getattr(expected, name), msg=name)
        # The order of the images is free, but not which one fills which place.
        assert part.pixel_values.shape == expected.pixel_values.shape
        torch.testing.assert_close(
            part.pixel_values[part.image_index], expected.pixel_values[expected.image_index], rtol=0, atol=0
        )
        assert (part.input_ids == IMAGE_ID).sum() == 3 * len(part.image_index)
        assert part.rows == expected.rows
    assert first == len(rows)


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_large_batches_are_predicted_in_slices_with_the_same_result(model, images, monkeypatch, method):
    task = Vqa(decoding={"method": method, "max_new_tokens": 4})
    samples = [Sample(f"k{i}", image, (), questions(f"k{i}", "what?", "how many of them are there?"[: 5 + 4 * i]))
               for i, image in enumerate(images)]  # fmt: skip
    batch = collator_of(model)([row for sample in samples for row in task.prompt_rows(sample)], supervised=False)
    at_once = task.predict(model, batch)
    prefixes = []
    model.mapper.register_forward_hook(lambda _, args, out: prefixes.append(len(out)))
    monkeypatch.setattr(interface, "MAX_ROWS", 4)
    assert task.predict(model, batch) == at_once
    assert [p.id for p in at_once] == [f"k{i}-{j}" for i in range(5) for j in range(2)]
    assert prefixes == [2, 2, 1]


def test_a_report_has_everything_that_a_comparison_needs():
    """Questions about an image are right or wrong together here, so the interval is as wide as that of the images."""
    task = Vqa()
    predictions = [
        Prediction("vqa", key, f"{key}-{i}", "Question: is it? Answer:", text, ("yes",), float(text == "yes"), ("is",))
        for key, text in (("a", "yes"), ("b", "no"))
        for i in range(20)
    ]
    report = task.report(predictions)
    items, resamples = report.pop("items"), report.pop("resamples")
    assert resamples == {}  # accuracies are means over items
    assert report == {
        "details": {},
        "digits": {"accuracy": 2, "accuracy_is": 2},
        "higher_is_better": {"accuracy": True, "accuracy_is": True},
        "tables": {},
        "shown_as": "text",
        "scores": {"accuracy": 50, "accuracy_is": 50},
        "counts": {"accuracy": 40, "accuracy_is": 40},
        "intervals": {"accuracy": (0, 100), "accuracy_is": (0, 100)},
        "num_items": 40,
        "num_unscored": 0,
        "num_images": 2,
        "example_context": "",
        "prompt": "Question: {question} Answer:",
        "decoding": {"method": "greedy", "max_new_tokens": 8, "stop": ["\n"]},
        "variant": "exact_match_normalised",
    }
    of_all = {p.id: 100 * p.correct for p in predictions}
    assert items == {"accuracy": of_all, "accuracy_is": of_all}
    caption = Captioning().report([Prediction("captioning", "a", "a", "", "a cat", ("a cat",), 1.0)])
    assert caption["intervals"]["exact_match"] == (100, 100)
    assert caption["decoding"]["max_new_tokens"] == 32
    assert "exact_match_lowercase" in caption["variant"]


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("red\nQuestion: b", ["\n"], "red"),
        ("red. Question: b\nc", ["\n", " Question:", "."], "red"),  # the first in the text, not in the list
        ("red. Question: b\nc", ["\n", " Question:"], "red."),
        (" red \n", ["\n"], "red"),
        ("red\nblue", [], "red\nblue"),
        ("Question: b", ["Question:"], ""),
    ],
)
def test_a_text_is_truncated_at_the_first_stop(text, stop, expected):
    assert truncate_at_stop(text, stop) == expected


def test_generated_text_is_truncated_before_it_is_scored(images, monkeypatch):
    model = tiny_model("gpt2")
    said = [model.lm.tokenizer(text).input_ids for text in (" red\nQ: what? A: blue", "\n blue, I think")]
    monkeypatch.setitem(generation.METHODS, "greedy", lambda model, batch, max_new_tokens: said)
    task = Vqa(decoding={"stop": [",", "\n"]})
    samples = [Sample(f"k{i}", images[i], (), questions("red", "what?")) for i in range(2)]
    rows = [row for sample in samples for row in task.prompt_rows(sample)]
    found = task.predict(model, collator_of(model)(rows, supervised=False))
    assert [(p.prediction, p.correct) for p in found] == [("red", 1), ("blue", 0)]


@pytest.mark.parametrize("task", [Captioning, Vqa])
@pytest.mark.parametrize("stop", ["\n", None, [""], [1]])
def test_stops_that_are_not_a_list_of_texts_are_an_error(task, stop):
    """A single text would be read as a list of its letters."""
    with pytest.raises(ValueError, match=rf"task\.{task.name}\.decoding\.stop is .*list of texts"):
        task(decoding={"stop": stop})


def test_items_are_by_score_those_of_a_group_too():
    task = Vqa()
    found = [Prediction("vqa", "a", str(i), "", "yes", ("yes",), 1.0, ("all", f"half_{i % 2}")) for i in range(4)]
    report = task.report(found)
    assert report["counts"] == {"accuracy": 4, "accuracy_all": 4, "accuracy_half_0": 2, "accuracy_half_1": 2}
    ids = {name: list(items) for name, items in report["items"].items()}
    everyone = ["0", "1", "2", "3"]
    halves = {"accuracy_half_0": ["0", "2"], "accuracy_half_1": ["1", "3"]}
    assert ids == {"accuracy": everyone, "accuracy_all": everyone, **halves}


def test_an_extra_scorer_gets_only_predictions_with_references():
    task = Vqa()
    found = [Prediction("vqa", "a", "0", "", "yes", ("yes",), 1.0), Prediction("vqa", "b", "1", "", "no", (), None)]
    report = task.report(found, [lambda known: {"length": item_mean_score(known, [len(p.prediction) for p in known])}])
    assert (report["scores"], report["counts"]) == ({"accuracy": 100, "length": 3}, {"accuracy": 1, "length": 1})
    assert report["items"] == {"accuracy": {"0": 100}, "length": {"0": 3}}


def test_training_a_task_for_evaluation_only_is_an_error(images):
    with pytest.raises(ValueError, match=r"fast_binding is for evaluation only"):
        FastBinding().training_rows(Sample("k", images[0]), random.Random(0))
