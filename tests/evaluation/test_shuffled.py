"""The report of the shuffled baseline, for tasks of every kind, and the differences to it."""

from dataclasses import replace

import numpy as np
import pytest

from prefixvlm.evaluation.shuffled import shuffled_trial
from prefixvlm.metrics.captions.caption_scores import caption_scores
from prefixvlm.metrics.paired import paired_test
from prefixvlm.report.results import join
from prefixvlm.task.captioning import Captioning
from prefixvlm.task.classification import Classification
from prefixvlm.task.contrastive import Contrastive
from prefixvlm.task.fast_binding import FastBinding
from prefixvlm.task.regression import Regression
from prefixvlm.task.results.prediction import Prediction
from prefixvlm.task.results.shuffle import donors
from prefixvlm.task.retrieval import Retrieval
from prefixvlm.task.tagging import Tagging
from prefixvlm.task.vqa import Vqa

COLOURS = ("red", "green", "blue", "black")
NUM_IMAGES = 24


def made(task, key, prompt, text, references, values=None, groups=(), id=None):
    correct = task.correct(text, references) if references else None
    return Prediction(task.name, key, id or key, prompt, text, references, correct, groups, values)


def shuffled(task, predictions):
    """Return the report of a task, that of its baseline, and what `join` makes of both."""
    trial = shuffled_trial({task.name: task}, {task.name: predictions}, {}, seed=3)
    return task.report(predictions), trial, join({task.name: task.report(predictions)}, {task.name: predictions},
                                                 {"blind": ({}, {}), "shuffled": trial})  # fmt: skip


def captions():
    return [
        made(Captioning(), f"k{n:02}", "", f"a {COLOURS[n % 4]} dog runs on {COLOURS[n % 3]} grass",
             (f"a {COLOURS[n % 4]} dog runs on the grass", f"{COLOURS[n % 3]} grass and a dog"))
        for n in range(NUM_IMAGES)
    ]  # fmt: skip


def test_captions_of_other_images_are_scored_as_if_the_model_had_said_them():
    given = captions()
    seen, (_, predictions), (result, lines) = shuffled(Captioning(), given)
    texts = {line["id"]: line["shuffled_prediction"] for line in lines}
    assert all(line["shuffled_from"] != line["id"] for line in lines)
    assert {p.id: p.prediction for p in predictions["captioning"]} == texts
    assert texts == {line["id"]: {p.id: p.prediction for p in given}[line["shuffled_from"]] for line in lines}
    assert sorted(texts.values()) == sorted(p.prediction for p in given)
    outside = caption_scores(texts, {p.id: p.references for p in given})
    scored = result["tasks"]["captioning"]
    assert outside.scores.items() <= scored["shuffled"].items()
    assert [line["shuffled_scores"]["cider"] for line in lines] == outside.per_item["cider"]
    # A shuffle does not change how diverse the captions are.
    assert scored["shuffled"].keys() == seen["scores"].keys() - {
        "distinct_captions", "most_frequent_share", "vocabulary", "mean_length"
    }  # fmt: skip
    assert scored["differences"]["shuffled"].keys() == scored["shuffled"].keys()
    cider = scored["differences"]["shuffled"]["cider"]
    test = paired_test(
        [line["shuffled_scores"]["cider"] for line in lines], [line["scores"]["cider"] for line in lines]
    )
    assert (cider["difference"], cider["interval"], cider["p_value"]) == (
        pytest.approx(test.difference), list(test.interval), test.p_value
    )  # fmt: skip
    bleu = scored["differences"]["shuffled"]["bleu_1"]
    assert bleu["interval"][0] < bleu["difference"] < bleu["interval"][1]
    assert bleu["p_value"] < 0.01
    assert not {"sources", "resamples", "items"} & scored.keys()


def test_one_image_and_images_without_references_have_no_shuffled_baseline():
    one = [replace(p, key="k") for p in captions()]
    assert shuffled(Captioning(), one)[1] == ({}, {})
    secret = [replace(p, references=(), correct=None) for p in captions()]
    _, trial, (result, lines) = shuffled(Captioning(), secret)
    assert trial == ({}, {})
    assert result["tasks"]["captioning"]["shuffled"] is None
    assert lines[0]["shuffled_prediction"] is None
    assert "shuffled_from" not in lines[0]


def test_a_model_that_does_not_look_is_no_better_than_its_shuffled_answers():
    task = Vqa()
    answers = {"what colour?": "red", "is it red?": "yes"}
    asked = [
        made(task, f"k{n:02}", prompt, answer, (COLOURS[n % 4] if "what" in prompt else ("yes", "no")[n % 4 > 0],),
             id=f"k{n:02}-{prompt}", groups=(prompt.split()[0],))
        for n in range(NUM_IMAGES) for prompt, answer in answers.items()
    ]  # fmt: skip
    seen, _, (result, _) = shuffled(task, asked)
    scored = result["tasks"]["vqa"]
    assert scored["shuffled"] == seen["scores"] == {"accuracy": 25, "accuracy_is": 25, "accuracy_what": 25}
    assert scored["shuffled_within"] == {"same_text": 2 * NUM_IMAGES, "same_kind": 0, "any": 0}
    same = {"difference": 0, "interval": [0, 0], "p_value": 1}
    assert scored["differences"]["shuffled"] == dict.fromkeys(("accuracy", "accuracy_is", "accuracy_what"), same)


def test_outputs_that_are_numbers_move_with_their_texts():
    classes = Classification(list(COLOURS))
    labelled = [
        made(classes, f"k{n:02}", "This is a", COLOURS[n % 4], (COLOURS[n % 4],), np.eye(4)[n % 4].tolist())
        for n in range(NUM_IMAGES)
    ]
    _, (_, moved), (result, _) = shuffled(classes, labelled)
    scores = result["tasks"]["classification"]["shuffled"]
    right = [p.prediction == p.references[0] for p in moved["classification"]]
    assert scores["accuracy"] == pytest.approx(100 * np.mean(right))
    assert scores["accuracy"] < 60
    assert all(COLOURS[int(np.argmax(p.values))] == p.prediction for p in moved["classification"])

    numbers = Regression("area")
    known = [made(numbers, f"k{n:02}", "", str(n), (str(n),), [float(n), float(n)]) for n in range(NUM_IMAGES)]
    seen, (_, moved), (result, _) = shuffled(numbers, known)
    errors = [abs(float(p.prediction) - float(p.references[0])) for p in moved["regression"]]
    assert seen["scores"]["mae"] == 0
    assert result["tasks"]["regression"]["shuffled"]["mae"] == pytest.approx(np.mean(errors))
    assert "mae_of_the_mean" not in result["tasks"]["regression"]["shuffled"]


def test_retrieval_by_likelihoods_of_other_images_finds_nothing():
    task = Retrieval()
    task._owners = [f"k{n:02}" for n in range(NUM_IMAGES)]
    task._candidates = [f"text {n}" for n in range(NUM_IMAGES)]
    found = [
        made(task, key, "", f"text {n}", (f"text {n}",), np.eye(NUM_IMAGES)[n]) for n, key in enumerate(task._owners)
    ]
    seen, (_, moved), (result, _) = shuffled(task, found)
    assert seen["scores"]["image_to_text_recall_1"] == seen["scores"]["text_to_image_recall_1"] == 100
    scored = result["tasks"]["retrieval"]
    assert scored["shuffled"]["image_to_text_recall_1"] == scored["shuffled"]["text_to_image_recall_1"] == 0
    assert {p.correct for p in moved["retrieval"]} == {0}
    # Recall from texts to images is a mean over captions, so the bootstrap over images compares it.
    assert scored["differences"]["shuffled"].keys() == seen["scores"].keys()
    assert scored["differences"]["shuffled"]["text_to_image_recall_1"]["interval"] == [100, 100]


def test_contrastive_images_exchange_their_vectors():
    task, rng = Contrastive(4), np.random.default_rng(0)
    pairs = [vector / np.linalg.norm(vector) for vector in rng.normal(size=(NUM_IMAGES, 4))]
    found = task.finalize([
        made(task, f"k{n:02}", f"text {n} {m}", "", (f"text {n} {m}",), [*vector, *vector], id=f"k{n:02}-{m}")
        for n, vector in enumerate(pairs) for m in range(2)
    ])  # fmt: skip
    seen, (_, moved), (result, _) = shuffled(task, found)
    assert seen["scores"]["image_to_text_recall_1"] == 100
    assert result["tasks"]["contrastive"]["shuffled"]["image_to_text_recall_1"] == 0
    vectors = {p.key: p.values[4:] for p in moved["contrastive"]}
    assert all(p.values[4:] == vectors[p.key] for p in moved["contrastive"])  # all captions of an image name one donor
    assert sorted(map(tuple, vectors.values())) == sorted(map(tuple, pairs))


def test_names_are_exchanged_among_episodes_with_the_same_names():
    task = FastBinding()
    found = []
    for n in range(NUM_IMAGES):
        names = ("dax", "blicket") if n % 3 else ("wug", "fep")
        said, right = names[n % 2], names[n // 2 % 2]
        values = [1.0, float(said == right), 1.0, float(names.index(said)), float(names.index(right))]
        found.append(replace(made(task, f"k{n:02}", "what?", said, (right,), values), context=" or ".join(names)))
    _, (_, moved), (result, _) = shuffled(task, found)
    own = {p.id: p.references for p in found}
    assert all(p.correct == p.values[1] == (p.prediction in own[p.id]) for p in moved["fast_binding"])
    assert {p.prediction in p.context for p in moved["fast_binding"]} == {True}
    assert result["tasks"]["fast_binding"]["shuffled"]["named_one"] == 100
    cut = [replace(p, values=[1.0, *p.values[1:2], 0.0, *p.values[3:]], correct=0.0) for p in found]
    assert {p.correct for p in shuffled(task, cut)[1][1]["fast_binding"]} == {0}


def test_tags_of_other_texts_are_not_exchanged():
    task = Tagging(["O", "B-SEEN", "I-SEEN"])
    tagged = [made(task, f"k{n}", "a dog", "O B-SEEN", ("O B-SEEN",)) for n in range(3)]
    assert shuffled(task, tagged)[1] == ({}, {})


def test_a_model_that_does_not_look_seldom_seems_to():
    rng, found = np.random.default_rng(0), 0
    for _ in range(200):
        items = [Prediction("captioning", f"k{n}", f"k{n}", "", "", ("x",), 0.0) for n in range(40)]
        # The score of output j at image i, of which some are easy and some outputs are good, whichever is whose.
        scores = rng.normal(size=(40, 40)) + rng.normal(size=40) + rng.normal(size=(40, 1))
        chosen = donors(items, [""] * 40, int(rng.integers(1 << 30)))
        test = paired_test(scores[range(40), chosen].tolist(), scores.diagonal().tolist(), num_resamples=400)
        found += test.p_value < 0.05
    assert found <= 20  # 10 are expected of a test at 5 %; it is conservative here
