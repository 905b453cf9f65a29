"""Demonstrations: which stand before a prompt, in which order and words, and that a model reads them as one text."""

import pickle
import random
from dataclasses import replace

import pytest
import torch
from PIL import Image

from prefixvlm.batch import Row
from prefixvlm.data.sample import Question, Sample
from prefixvlm.data.tokenization import token_ids
from prefixvlm.model.constrained import score_answers
from prefixvlm.model.decoding import greedy
from prefixvlm.task.captioning import Captioning
from prefixvlm.task.classification import Classification
from prefixvlm.task.fast_binding import FastBinding
from prefixvlm.task.rows.few_shot import Demonstrations, FewShot
from prefixvlm.task.rows.loader_rows import PromptRows
from prefixvlm.task.vqa import Vqa
from tests.conftest import collator_of
from tests.model import naive

SIZE = 12
TASKS = {
    "captioning": (Captioning("Caption:"), "Caption:", "Caption: caption {n}"),
    "plain": (Captioning(), "", "caption {n}"),
    "vqa": (Vqa("Q: {question} A:"), "Q: what? A:", "Q: what {n}? A: {n}"),
    "classification": (Classification(["even", "odd"], prompts=["It is"]), "It is", "It is {parity}"),
}


def sample_of(number, key=None):
    return Sample(
        key or f"train-{number}",
        Image.new("RGB", (8, 8), (20 * number, 255 - 20 * number, 7 * number)),
        (f"caption {number}",),
        (Question(f"{number}", f"what {number}?", (str(number),)),),
        {"label": "odd" if number % 2 else "even"},
    )


POOL = [sample_of(number) for number in range(SIZE)]


class Pool:
    """Samples of a list or, where `decode` is given, made anew each time that they are read."""

    def __init__(self, samples, decode=None):
        self.keys, self.decode = [sample.key for sample in samples], decode or samples.__getitem__

    def __getitem__(self, number):
        return self.decode(number)


def few_shot_of(shots, nearest=None, pool=POOL, **keywords):
    return Demonstrations(FewShot(shots, **keywords), Pool(pool), nearest)


def asked_row(task, image, id="test-0"):
    sample = Sample(id, image, ("truth",), (Question(id, "what?", ("truth",)),), {"label": "odd"})
    (row,) = task.prompt_rows(sample)
    return row


def shown(row):
    """The numbers of the demonstrations, in order."""
    return [next(n for n, s in enumerate(POOL) if s.image is part) for part in row.context if not isinstance(part, str)]


@pytest.mark.parametrize("name", TASKS)
def test_a_context_is_the_induction_then_images_with_what_was_trained_after_them(images, name):
    task, asked, text = TASKS[name]
    row = asked_row(task, images[0])
    found = few_shot_of(3, induction="Please answer.", separator=" ## ")(task, row)
    numbers = shown(found)
    assert len(set(numbers)) == 3
    expected = ["Please answer. ## "]
    for n in numbers:
        expected += [POOL[n].image, text.format(n=n, parity="odd" if n % 2 else "even") + " ## "]
    assert list(found.context) == expected
    assert found == replace(row, context=found.context)
    assert found.prompt == (images[0], asked)
    assert found.text == asked


@pytest.mark.parametrize("name", TASKS)
def test_a_demonstration_has_the_tokens_of_a_training_row(model, images, name):
    task, *_ = TASKS[name]
    found = few_shot_of(1)(task, asked_row(task, images[0]))
    (trained,) = task.training_rows(POOL[shown(found)[0]], random.Random(0))
    collate = collator_of(model)
    shown_ids = collate.tokenize(trained).ids
    ids = collate.tokenize(found, supervised=False).ids
    alone = collate.tokenize(replace(found, context=()), supervised=False).ids
    assert ids == shown_ids[:-1] + token_ids(model.lm.tokenizer, "\n") + alone


def test_demonstrations_depend_on_the_seed_and_the_row_alone(images):
    task = TASKS["vqa"][0]
    rows = [asked_row(task, images[i % 5], f"test-{i}") for i in range(20)]
    random.seed(0)
    first = [few_shot_of(3)(task, row).context for row in rows]
    random.seed(1)
    few_shot = few_shot_of(3)
    assert [few_shot(task, row).context for row in reversed(rows)] == first[::-1]
    assert len({tuple(shown(replace(row, context=c))) for row, c in zip(rows, first, strict=True)}) > 10
    assert [few_shot_of(3, seed=1)(task, row).context for row in rows] != first


def test_an_image_is_never_shown_with_its_own_prompt():
    task = TASKS["captioning"][0]
    for number in range(SIZE):
        for shots in (1, SIZE - 1):
            for seed in range(10):
                (row,) = task.prompt_rows(POOL[number])
                numbers = shown(few_shot_of(shots, seed=seed)(task, row))
                assert len(set(numbers)) == shots
                assert number not in numbers


@pytest.mark.parametrize(
    ("key", "order", "expected"), [("test-0", [7, 3, 5, 1], [5, 3, 7]), ("train-3", [7, 3, 5, 1], [1, 5, 7])]
)
def test_the_nearest_are_shown_with_the_most_alike_last_and_without_the_image_itself(images, key, order, expected):
    task = TASKS["captioning"][0]
    found = few_shot_of(3, {key: order}, choice="nearest")(task, asked_row(task, images[0], key))
    assert shown(found) == expected


def test_every_draw_is_likely_as_any_other(images):
    task = TASKS["plain"][0]
    few_shot = few_shot_of(2)
    numbers = [n for i in range(600) for n in shown(few_shot(task, asked_row(task, images[0], f"test-{i}")))]
    assert min(numbers.count(n) for n in range(SIZE)) > 60  # 100 are expected


def test_no_shots_need_no_pool_and_keep_the_induction(images):
    task = TASKS["vqa"][0]
    row = asked_row(task, images[0])
    assert Demonstrations(FewShot(induction="Please answer."))(task, row).context == ("Please answer.\n",)
    assert Demonstrations(FewShot())(task, row) == row


def test_an_induction_goes_before_the_support_of_an_episode_as_one_text(images):
    episode = Sample("k", images[0], (), (Question("q", "?", ("dax",), ("dax", "wug")),),
                     support=((images[1], "This is a dax."),))  # fmt: skip
    (row,) = FastBinding(induction="Answer with {names}.").prompt_rows(episode)
    found = Demonstrations(FewShot(induction="Please."))(FastBinding(), row)
    assert found.context == ("Please.\nAnswer with dax or wug. ", images[1], " This is a dax. ")


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"choice": "best"}, r"few_shot\.choice is 'best'; accepted are random, nearest"),
        ({"shots": -1}, r"few_shot\.shots is -1"),
        ({"shots": 4, "pool_size": 3}, r"few_shot\.shots is 4 and pool_size 3"),
        ({"pool_size": 0}, r"pool_size 0"),
    ],
)
def test_wrong_options_are_an_error(keywords, message):
    with pytest.raises(ValueError, match=message):
        FewShot(**keywords)


def test_a_pool_without_one_more_sample_than_shots_is_an_error():
    with pytest.raises(ValueError, match=r"few_shot\.shots is 12.*only 12 training samples"):
        few_shot_of(SIZE)
    few_shot_of(SIZE - 1)


def test_training_samples_with_nothing_to_show_give_way_and_are_an_error_if_no_others_are_left(images):
    pool = [replace(sample, labels={}) for sample in POOL]
    with pytest.raises(ValueError, match=r"only 0 training samples .* classification; set few_shot\.shots=0"):
        few_shot_of(1, pool=pool)(TASKS["classification"][0], asked_row(TASKS["classification"][0], images[0]))
    with pytest.raises(ValueError, match=r"'train-\d+' has no caption"):
        few_shot_of(1, pool=[replace(sample, captions=()) for sample in POOL])(
            TASKS["plain"][0], asked_row(TASKS["plain"][0], images[0])
        )


def test_it_travels_to_the_workers_of_a_loader(model, images):
    """A spawned worker gets the collate function by pickle."""
    task = TASKS["captioning"][0]
    few_shot = few_shot_of(2)
    row = asked_row(task, images[0])
    few_shot(task, row)
    collate = PromptRows(task, collator_of(model), few_shot)
    sample = Sample("test-0", images[0], ("truth",))
    here, there = (each([sample], random.Random(0)) for each in (collate, pickle.loads(pickle.dumps(collate))))
    assert here.input_ids.tolist() == there.input_ids.tolist()
    assert torch.equal(here.pixel_values, there.pixel_values)


def test_a_demonstration_of_several_prompts_is_encoded_once(model, images):
    """Though a pool decodes a sample anew each time that it is asked for it."""
    task = TASKS["plain"][0]
    nearest = {f"test-{i}": [3, 4, 5] for i in range(5)}
    few_shot = Demonstrations(FewShot(2, "nearest"), Pool(POOL, sample_of), nearest)
    rows = [few_shot(task, asked_row(task, image, f"test-{i}")) for i, image in enumerate(images)]
    batch = collator_of(model)(rows, supervised=False)
    assert len(batch.pixel_values) == 5 + 2
    assert len(batch.image_index) == 5 * 3


def contexts(images):
    """Rows with contexts of 2, 1 and no demonstrations, with an induction and without."""
    task = TASKS["captioning"][0]
    rows = [asked_row(task, image, f"test-{i}") for i, image in enumerate(images)]
    two, one = few_shot_of(2, separator=";"), few_shot_of(1, induction="Say", separator=".")
    return [two(task, rows[0]), one(task, rows[1]), rows[2], two(task, rows[3]), few_shot_of(1)(task, rows[4])]


def test_rows_with_contexts_of_other_lengths_read_together_as_each_alone(model, images):
    naive.make_images_count(model)
    collate, rows = collator_of(model), contexts(images)
    batch = collate(rows, supervised=False)
    answers = [model.lm.tokenizer(text).input_ids for text in (" caption", " a", " truth")]
    together = score_answers(model, batch, answers)
    for row, values, text in zip(rows, together, greedy(model, batch, 6), strict=True):
        alone = collate([row], supervised=False)
        torch.testing.assert_close(values[None], score_answers(model, alone, answers), atol=1e-3, rtol=0)
        expected = [naive.log_likelihood(model, row, answer) for answer in answers]
        assert values.tolist() == pytest.approx(expected, abs=1e-3)
        assert text == naive.greedy(model, row, 6)
    bare = score_answers(model, collate([replace(row, context=()) for row in rows], supervised=False), answers)
    assert (together - bare).abs().amax(1)[[0, 1, 3, 4]].min() > 0.01  # the context is read


@torch.no_grad()
def test_a_row_with_a_context_is_one_sequence_of_prefixes_and_texts(model, images):
    """Put together by hand: each part's embeddings, one after the other."""
    naive.make_images_count(model)
    for row in contexts(images):
        parts = []
        for part in (*row.context, *row.prompt):
            if isinstance(part, Image.Image):
                parts.append(model.prefix_embeds(model.encoder.transform(part)[None])[0])
            elif part:
                parts.append(model.lm.embed(torch.tensor(model.lm.tokenizer(part).input_ids)))
        torch.testing.assert_close(naive.embeds_of(model, row)[0], torch.cat(parts))


def test_a_prediction_tells_the_prompt_of_its_own_question_only(model, images):
    task = Vqa("Q: {question} A:", decoding={"max_new_tokens": 2})
    sample = Sample("test-0", images[0], (), (Question("q", "what?", ("truth",)),))
    batch = PromptRows(task, collator_of(model), few_shot_of(2))([sample], random.Random(0))
    assert len(batch.image_index) == 3
    (found,) = task.predict(model, batch)
    assert (found.prompt, found.id, found.references) == ("Q: what? A:", "q", ("truth",))


def test_the_context_is_no_part_of_a_rows_text(images):
    row = Row((images[0], "a"), context=("b", images[1], "c"))
    assert row.text == "a"
    assert row.parts == ("b", images[1], "c", images[0], "a")
    assert row.without_images().parts == ("b<image>c", "a")  # to be read by people
