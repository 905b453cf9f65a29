"""A grammar allows the same ids as a trie of all its texts."""

import itertools
import random

import pytest

from prefixvlm.model.grammar import Grammar

EOS = 0


def every(stages, separator, max_rounds):
    """Return all texts of the grammar, with EOS."""
    rounds = [[token for part in each for token in part] for each in itertools.product(*stages)]
    texts = [[]] if separator else []
    for number in range(1, (max_rounds if separator else 1) + 1):
        for chosen in itertools.product(rounds, repeat=number):
            texts.append([*chosen[0], *(token for part in chosen[1:] for token in [*separator, *part])])
    return [[*text, EOS] for text in texts]


@pytest.mark.parametrize("seed", range(40))
def test_allowed_ids_are_those_that_follow_in_one_of_its_texts(seed):
    rng = random.Random(seed)
    stages = [[[rng.randrange(1, 4) for _ in range(rng.randrange(1, 3))] for _ in range(rng.randrange(1, 4))]
              for _ in range(rng.randrange(1, 4))]  # fmt: skip
    separator = rng.choice([[], [4], [4, 5]])
    max_rounds = rng.choice([1, 2])
    grammar, texts = Grammar(stages, EOS, separator, max_rounds), every(stages, separator, max_rounds)
    beginnings = {tuple(text[:length]) for text in texts for length in range(len(text))}
    for beginning in beginnings:
        expected = {text[len(beginning)] for text in texts if tuple(text[: len(beginning)]) == beginning}
        assert set(grammar.following(beginning)) == expected
    assert max(map(len, texts)) <= grammar.depth


def test_one_box_at_most_is_one_or_none():
    grammar = Grammar([[[1]], [[2], [3]]], EOS, separator=[4], max_rounds=1)
    assert set(grammar.following([])) == {EOS, 1}
    assert grammar.following([1, 2]) == [EOS]


def test_empty_stages_are_refused():
    with pytest.raises(ValueError, match="at least one token each"):
        Grammar([[[]]], EOS)
