"""Contrastive retrieval, compared with single rows, a loop for InfoNCE, and counted ranks."""

import math
import random
from dataclasses import replace

import pytest
import torch
from PIL import Image

from prefixvlm.batch import IMAGE_ID, LEARNED_ID
from prefixvlm.data.sample import Sample
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.task.contrastive import Contrastive
from prefixvlm.task.results.prediction import Prediction
from tests.conftest import collator_of, tiny_model

CAPTIONS = ["a red thing", "a thing", "a thing", "something blue and long", "grey"]
COLOURS = ["red", "green", "white", "blue", "grey"]


def samples():
    pairs = zip(CAPTIONS, COLOURS, strict=True)
    return [Sample(f"k{n}", Image.new("RGB", (8, 8), c), captions=(text,)) for n, (text, c) in enumerate(pairs)]


def model_of(task, family="gpt2"):
    plain = tiny_model(family)
    torch.manual_seed(1)
    return PrefixLM(
        plain.encoder, plain.mapper, plain.lm, {"contrastive": task.head(plain.lm.state_width, plain.lm.width, 8)}
    )


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "bert"])
def test_a_batch_gives_each_caption_and_image_its_own_vector(family):
    task = Contrastive(6)
    model, rows = model_of(task, family), [row for sample in samples() for row in task.prompt_rows(sample)]
    collate = collator_of(model)
    together = task.predict(model, collate(rows, supervised=False))
    by_id = {p.id: p.values for p in together}
    for row in rows:
        (alone,) = task.predict(model, collate([row], supervised=False))
        assert by_id[row.id] == pytest.approx(alone.values, abs=1e-5)
    vectors = torch.tensor([by_id[row.id] for row in rows])
    assert not torch.allclose(vectors[1, 6:], vectors[2, 6:]), "one caption, two images"
    torch.testing.assert_close(vectors[1, :6], vectors[2, :6])
    torch.testing.assert_close(vectors[:, :6].norm(dim=1), torch.ones(5))


@pytest.mark.parametrize("family", ["gpt2", "t5", "bert"])
def test_a_caption_s_vector_is_read_where_the_learned_token_stands(family):
    task = Contrastive(6)
    model = model_of(task, family)
    (row,) = task.prompt_rows(samples()[0])
    batch = collator_of(model)([row], supervised=False)
    assert (batch.input_ids == LEARNED_ID).sum() == 1
    assert not (batch.input_ids == IMAGE_ID).any()
    head = model.heads["contrastive"]
    states = model.lm.hidden_at(
        model.inputs_embeds(batch, head.token), batch.attention_mask, batch.input_ids == LEARNED_ID
    )
    expected = torch.nn.functional.normalize(head.text.outputs(states), dim=-1)
    torch.testing.assert_close(head(model, batch)[0], expected)


@pytest.mark.parametrize("factor", [14.0, 1000.0])
def test_the_loss_is_infonce_in_both_directions_with_equal_captions_as_positives(factor):
    task = Contrastive(6)
    model = model_of(task)
    model.heads["contrastive"].scale.data.fill_(math.log(factor))
    rows = [row for sample in samples() for row in task.training_rows(sample, random.Random(0))]
    batch = collator_of(model)(rows)
    texts, images, _ = (each.detach().double() for each in model.heads["contrastive"](model, batch))
    table = (min(factor, 100) * texts @ images.T).tolist()
    same = [[a == b for b in CAPTIONS] for a in CAPTIONS]

    def entropy(row, right):
        total = math.log(sum(map(math.exp, row)))
        return sum(total - value for value, ok in zip(row, right, strict=True) if ok) / sum(right)

    columns = list(zip(*table, strict=True))
    expected = [(entropy(table[n], same[n]) + entropy(columns[n], same[n])) / 2 for n in range(5)]
    assert task.losses(model, batch).tolist() == pytest.approx(expected, rel=1e-4)
    assert torch.isfinite(task.losses(model, batch)).all()


def test_recall_accepts_every_image_with_the_caption():
    def one_hot(place):
        return [float(place == at) for at in range(4)]

    task = Contrastive(4)
    vectors = [  # captions' vectors, images' vectors: the second caption finds the third image, which has it too
        ("k0", "a", one_hot(0), one_hot(0)),
        ("k1", "b", one_hot(2), one_hot(1)),
        ("k2", "b", one_hot(2), one_hot(2)),
        ("k3", "c", one_hot(0), one_hot(3)),
    ]
    predictions = [Prediction("contrastive", key, f"{key}-0", text, "", (text,), None, values=[*t, *i])
                   for key, text, t, i in vectors]  # fmt: skip
    final = task.finalize(predictions)
    assert [p.prediction for p in final] == ["a", "b", "b", "a"]
    scores = {name: score.value for name, score in task.scores(final).items()}
    assert scores["text_to_image_recall_1"] == 75
    assert scores["image_to_text_recall_1"] == 25  # k2's: a and c tie for k0's, and all for k1's and k3's
    assert task.finalize([]) == []


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="width is 0"):
        Contrastive(0)
    with pytest.raises(ValueError, match="'k0' has no caption"):
        Contrastive().prompt_rows(replace(samples()[0], captions=()))
