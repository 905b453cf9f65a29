"""Scores of answers and constrained greedy decoding against naive loops without a cache."""

import pytest
import torch

from prefixvlm.batch import Row
from prefixvlm.model.constrained import Trie, constrained_greedy, score_answers
from prefixvlm.model.decoding import greedy
from tests.conftest import collator_of, tiny_model
from tests.model import naive
from tests.model.test_decoding import rows_of

# Answers that are beginnings of others, that differ only late, and of different lengths.
LISTS = (
    ("red", "red circle", "red circles"),
    ("a", "b", "c", "d", "e", "f", "ab", "abc", "fed"),
    ("yes", "no"),
    ("one",),
    ("blue", "blue circle", "black", "b"),
)


def ids_of(model, texts):
    return [model.lm.tokenizer(text).input_ids for text in texts]


def constrained_to(model, rows, lists):
    tries = [Trie(ids_of(model, texts), model.lm.eos_id) for texts in lists]
    return constrained_greedy(model, collator_of(model)(rows, supervised=False), tries)


def test_constrained_decoding_in_a_batch_equals_each_row_alone_without_a_cache(model, images):
    """Decode; each row has a list of its own."""
    rows = rows_of(images)
    naive.make_images_count(model)
    lists = [LISTS[i % len(LISTS)] for i in range(len(rows))]
    together = constrained_to(model, rows, lists)
    assert together == [
        naive.constrained_greedy(model, row, ids_of(model, texts)) for row, texts in zip(rows, lists, strict=True)
    ]
    assert together == [constrained_to(model, [row], [texts])[0] for row, texts in zip(rows, lists, strict=True)]
    generated = [model.lm.tokenizer.decode(ids) for ids in together]
    assert all(text in texts for text, texts in zip(generated, lists, strict=True))
    assert greedy(model, collator_of(model)(rows, supervised=False), 12) != together


@pytest.mark.parametrize("texts", [("re", "red", "red circle"), ("red circle", "red", "re")])
@pytest.mark.parametrize("ends", ["re", "red", "red circle"])
def test_eos_decides_between_an_answer_and_one_that_begins_with_it(images, texts, ends):
    """Make the head generate the letters of "red circle", with EOS at a given position."""
    model = tiny_model("gpt2")
    ids = ids_of(model, ["red circle"])[0]
    steps = iter(range(len(ids) + 1))

    def forced_logits(module, args, logits):
        step = next(steps)
        logits = torch.full_like(logits, 5.0)  # ids that no answer allows are more probable than others
        logits[:, ids[: len(ids)]] = 0
        logits[:, model.lm.eos_id] = 1
        if step < len(ends):
            logits[:, ids[step]] = 2
        return logits

    model.lm.model.get_output_embeddings().register_forward_hook(forced_logits)
    assert constrained_to(model, [Row((images[0], "Q"))], [texts]) == ids_of(model, [ends])


def test_eos_is_not_accepted_before_an_answer_is_whole(images):
    model = tiny_model("gpt2")

    def only_eos(module, args, logits):
        return torch.zeros_like(logits).index_fill(-1, torch.tensor([model.lm.eos_id]), 50.0)

    model.lm.model.get_output_embeddings().register_forward_hook(only_eos)
    assert constrained_to(model, [Row((images[0], "Q"))], [("circle", "circles")]) == ids_of(model, ["circle"])


@pytest.mark.parametrize("answers", [[], [[]], [[1], []]])
def test_lists_without_answers_or_with_an_empty_one_are_an_error(images, answers):
    model = tiny_model("gpt2")
    with pytest.raises(ValueError, match="at least one token each"):
        Trie(answers, model.lm.eos_id)
    with pytest.raises(ValueError, match="at least one token each"):
        score_answers(model, collator_of(model)([Row((images[0], "Q"))], supervised=False), answers)


@pytest.mark.parametrize("normalize_length", [False, True])
def test_scores_of_answers_equal_a_naive_loop(model, images, normalize_length):
    rows = rows_of(images)
    answers = ids_of(model, ("yes", "no", "y", "a long answer"))
    ours = score_answers(model, collator_of(model)(rows, supervised=False), answers, normalize_length)
    for row, scores in zip(rows, ours.tolist(), strict=True):
        expected = [naive.log_likelihood(model, row, answer, normalize_length) for answer in answers]
        assert scores == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_an_answer_without_positions_left_is_a_value_error(family, images):
    model = tiny_model(family)
    batch = collator_of(model)([Row((images[0], "a" * 90), id="k")], supervised=False)
    with pytest.raises(ValueError, match=r"few_shot\.shots.*max_new_tokens"):
        greedy(model, batch, 32)
    with pytest.raises(ValueError, match=r"need 10\d positions"):
        score_answers(model, batch, [[7] * 9])
