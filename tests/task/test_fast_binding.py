"""Fast binding: prompts of episodes, and correctness of answers that are the name and nothing else."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from prefixvlm.data.sample import Question, Sample
from prefixvlm.task.fast_binding import FastBinding
from prefixvlm.task.results.prediction import Prediction
from tests.conftest import collator_of, tiny_model
from tests.model import naive

NAMES = ("blicket", "dax")


def episode(images, key="k0", answer="dax", names=NAMES, question="What is this?"):
    asked = Question(f"{key}-q", question, (answer,), names, {"ways": str(len(names)), "shots": "1"})
    support = tuple((image, f"a {name}.") for image, name in zip(images[1:], names, strict=False))
    return Sample(key, images[0], (), (asked,), support=support)


def force(model, text):
    """Make the model generate this text, with <eos> as its end; later calls of its head are not changed."""
    tokens = [model.lm.eos_id if c == "\0" else model.lm.tokenizer(c).input_ids[0] for c in text]
    script = iter(tokens)

    def forced_logits(module, args, logits):
        token = next(script, None)
        return logits if token is None else torch.zeros_like(logits).index_fill(-1, torch.tensor([token]), 9.0)

    return model.lm.model.get_output_embeddings().register_forward_hook(forced_logits)


@pytest.mark.parametrize("method", ["greedy", "nucleus"])
@pytest.mark.parametrize(
    ("text", "prediction", "correct", "named"),
    [
        ("dax\0", "dax", 1, 1),
        (" dax\0", "dax", 1, 1),
        ("blicket\0", "blicket", 0, 1),
        ("dax.\0", "dax.", 0, 1),
        ("dax!!!!!", "dax!!!!!", 0, 1),  # continues until it is cut off
        ("dax\n\0", "dax\n", 0, 1),
        ("a dax\0", "a dax", 0, 0),
        ("  dax\0", " dax", 0, 0),
        ("Dax\0", "Dax", 0, 0),
        ("\0", "", 0, 0),
    ],
)
def test_an_answer_is_right_if_it_is_the_name_and_nothing_more(images, method, text, prediction, correct, named):
    model, task = tiny_model("gpt2"), FastBinding(" A:", "{names}:", decoding={"max_new_tokens": 8, "method": method})
    batch = collator_of(model)(task.prompt_rows(episode(images)), supervised=False)
    hook = force(model, text)
    (found,) = task.predict(model, batch)
    hook.remove()
    assert (found.prediction, found.correct, found.values[0]) == (prediction, correct, named)


@pytest.mark.parametrize(("max_new_tokens", "correct"), [(3, 0), (4, 1)])
def test_a_name_that_is_cut_before_its_end_is_wrong(images, max_new_tokens, correct):
    """The name has 3 tokens, and its EOS is the fourth."""
    model, task = tiny_model("gpt2"), FastBinding(" A:", "{names}:", decoding={"max_new_tokens": max_new_tokens})
    batch = collator_of(model)(task.prompt_rows(episode(images)), supervised=False)
    force(model, "dax\0"[:max_new_tokens])
    (found,) = task.predict(model, batch)
    assert (found.prediction, found.correct) == ("dax", correct)


def test_an_episode_is_the_induction_the_support_and_the_question(images):
    task = FastBinding(" Q: {question} A: This is a", induction="Answer with {names}.", separator=" ")
    (row,) = task.prompt_rows(episode(images))
    assert row.context == (
        "Answer with blicket or dax. ", images[1], " a blicket. ", images[2], " a dax. "
    )  # fmt: skip
    assert row.prompt == (images[0], " Q: What is this? A: This is a")
    assert (row.key, row.id, row.references, row.choices) == ("k0", "k0-q", ("dax",), NAMES)
    assert row.groups == ("ways_2", "shots_1")


@pytest.mark.parametrize("repeats", [0, 1, 3])
def test_repeats_show_the_whole_support_again_in_its_order(images, repeats):
    (row,) = FastBinding(induction="", repeats=repeats).prompt_rows(episode(images))
    assert row.context == (images[1], " a blicket. ", images[2], " a dax. ") * (1 + repeats)


def test_a_repeated_support_is_encoded_once(images):
    model, task = tiny_model("gpt2"), FastBinding(prompt="?", induction="", repeats=1, separator="")
    batch = collator_of(model)(task.prompt_rows(episode(images)), supervised=False)
    assert (len(batch.pixel_values), len(batch.image_index)) == (3, 5)


def episodes(images):
    kinds = (NAMES, ("wug", "dax"), ("fep", "blicket", "gop"), NAMES)
    return [
        episode([*images[i:], *images[:i]], f"k{i}", names[-1], names, "What is this?"[: 6 + 2 * i])
        for i, names in enumerate(kinds)
    ]


def test_ranking_is_whether_the_likeliest_of_the_episodes_own_names_is_right(model, images):
    naive.make_images_count(model)
    task = FastBinding(" {question} A:", "{names}:", decoding={"max_new_tokens": 2})
    rows = [row for sample in episodes(images) for row in task.prompt_rows(sample)]
    found = task.predict(model, collator_of(model)(rows, supervised=False))
    for row, prediction in zip(rows, found, strict=True):
        values = naive.likelihoods(model, row, list(row.choices))
        likeliest = row.choices[values.index(max(values))]
        assert prediction.values[1] == (likeliest in row.references)
        assert prediction.id == row.id
    alone = [p for row in rows for p in task.predict(model, collator_of(model)([row], supervised=False))]
    assert [p.values for p in alone] == [p.values for p in found]
    assert alone == found


def test_with_black_images_ranking_is_at_chance(images):
    """Questions with black images and the same names are one row, so that one of them is right."""
    model, black = tiny_model("llama"), [Image.new("RGB", (8, 8))] * 5
    task = FastBinding(" This is a", decoding={"max_new_tokens": 2})
    samples = [episode(black, f"k{i}", NAMES[i % 2]) for i in range(6)]
    batch = collator_of(model)([row for sample in samples for row in task.prompt_rows(sample)], supervised=False)
    assert len(batch.rows) == 1
    found = task.predict(model, batch)
    assert sorted(p.id for p in found) == [f"k{i}-q" for i in range(6)]
    assert task.scores(found)["ranking"].value == 50


def test_scores_are_percent_over_all_and_by_ways_and_shots():
    task = FastBinding()
    found = [
        Prediction("fast_binding", f"k{i}", f"q{i}", "", "", ("dax",), float(i == 0), (f"ways_{2 + i % 2}",), values)
        for i, values in enumerate(([1.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]))
    ]
    report = task.report(found)
    assert report["scores"] == {
        "accuracy": 25, "accuracy_ways_2": 50, "accuracy_ways_3": 0, "named_one": 75, "ranking": 50
    }  # fmt: skip
    assert report["variant"] == "exact_name_then_eos"
    assert [report["items"][name]["q0"] for name in ("accuracy", "named_one", "ranking")] == [100, 100, 100]


@pytest.mark.parametrize("lacking", ["support", "questions", "choices"])
def test_a_sample_that_is_not_an_episode_is_an_error_with_its_key(images, lacking):
    corpus_score = episode(images, "k9")
    sample = {
        "support": Sample("k9", corpus_score.image, (), corpus_score.questions),
        "questions": Sample("k9", corpus_score.image, support=corpus_score.support),
        "choices": Sample("k9", corpus_score.image, (), (Question("q", "?", ("dax",)),), support=corpus_score.support),
    }[lacking]
    with pytest.raises(ValueError, match=r"'k9' is no episode"):
        FastBinding().prompt_rows(sample)


def test_negative_repeats_are_an_error():
    with pytest.raises(ValueError, match=r"task\.fast_binding\.repeats is -1"):
        FastBinding(repeats=-1)


@pytest.mark.parametrize("repeats", [0, 1])
def test_calibrated_is_relative_to_the_images_of_the_support(model, images, repeats):
    naive.make_images_count(model)
    task = FastBinding("?", "", repeats, "", calibrate=True, decoding={"max_new_tokens": 2})
    samples = [
        episode([*images[i:], *images[:i]], f"k{i}", "dax", ways) for i in range(5) for ways in (NAMES, NAMES[::-1])
    ]
    rows = [row for sample in samples for row in task.prompt_rows(sample)]
    found = task.predict(model, collator_of(model)(rows, supervised=False))
    changed = 0
    for sample, row, prediction in zip(samples, rows, found, strict=True):
        names = list(row.choices)
        raw = naive.likelihoods(model, row, names)
        shown = [naive.likelihoods(model, replace(row, prompt=(i, row.prompt[1])), names) for i, _ in sample.support]
        scores = [value - sum(each[n] for each in shown) / len(shown) for n, value in enumerate(raw)]
        assert prediction.values[4:] == [names.index("dax"), scores.index(max(scores))]
        changed += scores.index(max(scores)) != raw.index(max(raw))
    assert changed, "the calibration made no difference, so that its test could not fail"


def test_with_black_images_calibrated_names_tie(images):
    """Their scores are then 0, and the first name is chosen: chance, whatever name the model prefers."""
    model, black = tiny_model("llama"), Image.new("RGB", (8, 8))
    task = FastBinding(" This is a", decoding={"max_new_tokens": 2}, calibrate=True)
    samples = [episode([black] * 5, f"k{i}", name) for i, name in enumerate(NAMES)]
    batch = collator_of(model)([row for sample in samples for row in task.prompt_rows(sample)], supervised=False)
    found = task.predict(model, batch)
    assert [p.values[5] for p in found] == [0, 0]
    assert task.scores(found)["calibrated"].value == 50
    other = task.with_output(replace(found[0], values=[*found[0].values[:5], 1.0]), found[1])
    assert other.values[4:] == [0, 0], "the output of the other, against the own answer"
