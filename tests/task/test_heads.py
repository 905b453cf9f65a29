"""Heads, compared with losses in float64, with single rows, and with the scores of torchmetrics."""

import random

import pytest
import torch
from torch import nn
from torchmetrics.functional.regression import mean_absolute_error, mean_squared_error, r2_score

from prefixvlm.batch import Row
from prefixvlm.data.sample import BLACK_IMAGE, Sample
from prefixvlm.data.schema import Tagged
from prefixvlm.model.head import Outputs, RowHead, TokenHead
from prefixvlm.task.classification_head import ClassificationHead
from prefixvlm.task.regression import Regression
from prefixvlm.task.tagging import Tagging
from tests.conftest import collator_of, tiny_model

CLASSES = ["a", "b", "c"]


def naive_classification(outputs, truths, weights, smoothing):
    """Return -sum(q log p) times the weight of the true class, with q the smoothed truth."""
    losses = []
    for row, truth in zip(outputs.double(), truths, strict=True):
        log_shares = row - row.exp().sum().log()
        wanted = [(1 - smoothing) * (place == truth) + smoothing / len(row) for place in range(len(row))]
        losses.append(-weights[truth] * sum(q * p for q, p in zip(wanted, log_shares.tolist(), strict=True)))
    return losses


def naive_binary(output, true, weight, smoothing):
    share = 1 / (1 + (-output.double()).exp())
    wanted = true * (1 - smoothing) + smoothing / 2
    return -(weight * wanted * share.log() + (1 - wanted) * (1 - share).log()).item()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_losses_of_classes(smoothing):
    torch.manual_seed(0)
    outputs, weights = 3 * torch.randn(6, 3), {"b": 2.0, "c": 0.5}
    truths = [0, 1, 2, 2, 1, 0]
    task = ClassificationHead(CLASSES, class_weights=weights)
    ours = task.loss(outputs, torch.tensor(truths)[:, None].float(), smoothing)
    assert ours.tolist() == pytest.approx(naive_classification(outputs, truths, [1.0, 2.0, 0.5], smoothing), rel=1e-5)

    two = ClassificationHead(["a", "b"], class_weights={"b": 2.0})
    true = [0, 1, 1, 0, 1, 0]
    ours = two.loss(outputs[:, :1], torch.tensor(true)[:, None].float(), smoothing)
    expected = [(1 + t) * naive_binary(o, t, 1.0, smoothing) for o, t in zip(outputs[:, 0], true, strict=True)]
    assert ours.tolist() == pytest.approx(expected, rel=1e-5)

    several = ClassificationHead(CLASSES, multi_label=True, class_weights=weights)
    values = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0]]).float()
    ours = several.loss(outputs, values, smoothing)
    expected = [
        sum(naive_binary(o, t, w, smoothing) for o, t, w in zip(row, truth.tolist(), (1.0, 2.0, 0.5), strict=True)) / 3
        for row, truth in zip(outputs, values, strict=True)
    ]
    assert ours.tolist() == pytest.approx(expected, rel=1e-5)


def test_losses_of_numbers():
    outputs, values = torch.tensor([[0.0], [0.5], [3.0], [-2.0]]), torch.zeros(4, 1)
    assert Regression("x").loss(outputs, values, 0.0).tolist() == [0.0, 0.25, 9.0, 4.0]
    assert Regression("x", loss="huber").loss(outputs, values, 0.0).tolist() == [0.0, 0.125, 2.5, 1.5]


def rows(images):
    return [
        Row((images[0], "what is it? one more time: "), head_targets=(1.0,)),
        Row(("and ", images[1], "?", images[2]), head_targets=(0.0,)),
        Row((images[3],), head_targets=(1.0,)),
    ]


@pytest.mark.parametrize("hidden_width", [None, 7])
@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "bert"])
def test_the_outputs_of_a_row_depend_on_its_own_states_alone(family, pooling, hidden_width, images):
    model = tiny_model(family)
    torch.manual_seed(1)
    head = RowHead(Outputs(model.lm.state_width, 2, hidden_width), pooling)
    batch = collator_of(model)(rows(images), supervised=False)
    found = head(model, batch)
    for row, numbers in zip(rows(images), found, strict=True):
        one = collator_of(model)([row], supervised=False)
        states = model.lm.hidden_at(model.inputs_embeds(one), one.attention_mask, one.attention_mask).float()
        state = states[-1] if pooling == "last" else states.mean(0)
        normed = (state - state.mean()) / (state.var(correction=0) + 1e-5).sqrt()  # the layer norm, at its start
        for layer in [each for each in head.outputs if isinstance(each, nn.Linear)]:
            normed = layer.weight @ normed + layer.bias
            if layer.out_features == 7:
                normed = nn.functional.gelu(normed)
        torch.testing.assert_close(numbers, normed, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_heads_return_float32_under_mixed_precision(family, images):
    model = tiny_model(family)
    head = RowHead(Outputs(model.lm.state_width, 2))
    batch = collator_of(model)(rows(images), supervised=False)
    with torch.autocast("cpu", torch.bfloat16):
        found = head(model, batch)
    assert found.dtype == torch.float32
    assert len(found.flatten().bfloat16().float().eq(found.flatten()).nonzero()) < found.numel()


def test_the_tag_of_a_word_is_predicted_from_its_last_token(images):
    model = tiny_model("bert")
    task = Tagging(["O", "B-X", "I-X"])
    words = ("long", "a", "words")
    sample = Sample("k", images[0], tagged=(Tagged(words, ("O", "B-X", "I-X")),))
    batch = collator_of(model)(task.training_rows(sample, random.Random(0)))
    places = (batch.tags[0] != -100).nonzero().flatten().tolist()
    first = 1 + model.mapper.prefix_length  # what BERT begins with, and the image
    ends = [first + len(" ".join(["", *words[: n + 1]]).encode()) - 1 for n in range(3)]  # bytes are tokens here
    assert places == ends
    assert batch.tags[0, places].tolist() == [0, 1, 2]
    assert TokenHead(Outputs(model.lm.state_width, 3))(model, batch).shape == (3, 3)


def test_a_word_that_the_tokenizer_does_not_read_is_an_error(images):
    model = tiny_model("gpt2")
    collate = collator_of(model)
    plain = collate.tokenizer

    def reads_nothing(text, **options):
        return plain(text.replace("\u200b", "").strip() if "\u200b" in text else text, **options)

    collate.tokenizer = reads_nothing
    row = Row((images[0], "a", " \u200b", " dog"), key="k7", tags=(0, 1, 2))
    with pytest.raises(ValueError, match=r"sample 'k7': '\\u200b' has a tag, but the tokenizer reads nothing in it"):
        collate.tokenize(row)


@pytest.mark.parametrize("seed", range(3))
def test_scores_of_numbers_are_torchmetrics(seed):
    rng = random.Random(seed)
    task = Regression("area", mean=5.0, std=2.0)
    truths = [rng.gauss(5, 2) for _ in range(40)]
    predicted = [truth + rng.gauss(0, 1) for truth in truths]
    predictions = []
    for number, (true, guess) in enumerate(zip(truths, predicted, strict=True)):
        (row,) = task.prompt_rows(Sample(f"k{number}", BLACK_IMAGE, values={"area": true}))
        predictions.append(task.to_prediction(row, [(guess - 5) / 2]))
    scores = {name: score.value for name, score in task.scores(predictions).items()}
    guesses, true = torch.tensor(predicted).double(), torch.tensor(truths).double()
    assert scores["mae"] == pytest.approx(mean_absolute_error(guesses, true).item(), rel=1e-6)
    assert scores["rmse"] == pytest.approx(mean_squared_error(guesses, true, squared=False).item(), rel=1e-6)
    assert scores["r2"] == pytest.approx(r2_score(guesses, true).item(), rel=1e-6)
    assert scores["mae_of_the_mean"] == pytest.approx((true - true.mean()).abs().mean().item(), rel=1e-6)


@pytest.mark.parametrize("truths", [[3.0], [0.1, 0.1, 0.1]])
def test_r2_of_one_value_is_a_number(truths):
    task = Regression("area")
    given = [task.prompt_rows(Sample(f"k{n}", BLACK_IMAGE, values={"area": true}))[0] for n, true in enumerate(truths)]
    assert task.scores([task.to_prediction(row, [1.0]) for row in given])["r2"].value == 0


def test_large_numbers_are_written_out():
    task = Regression("date")
    (row,) = task.prompt_rows(Sample("k", BLACK_IMAGE, values={"date": 20230115.0}))
    assert row.references == ("20230115",)


def test_samples_without_labels_are_predicted_but_neither_scored_nor_trained_on():
    unknown = Sample("k", BLACK_IMAGE)
    for task in (Regression("area"), ClassificationHead(CLASSES), ClassificationHead(CLASSES, multi_label=True)):
        assert task.training_rows(unknown, random.Random(0)) == []
        (row,) = task.prompt_rows(unknown)
        assert row.references == ()
    both = ClassificationHead(CLASSES, "seen", multi_label=True)
    for seen, reference in ((("b", "a", "b"), "a, b"), ((), "")):
        (row,) = both.prompt_rows(Sample("k", BLACK_IMAGE, label_sets={"seen": seen}))
        assert row.references == (reference,)
        assert both.correct(reference, row.references) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClassificationHead(["a", "averages"]), "classes has 'averages'"),
        (lambda: ClassificationHead(CLASSES, class_weights={"a": -1}), "class_weights has -1"),
        (lambda: ClassificationHead(CLASSES, class_weights={"d": 1}), "class_weights names 'd'"),
        (lambda: Tagging(["O", "PER"]), "give O, B-NAME and I-NAME"),
        (lambda: Tagging(["O", "B-NEW YORK"]), "without spaces"),
        (lambda: Tagging(["O", "B-"]), "give O"),
        (lambda: Regression("x", std=0), "std is 0"),
        (lambda: Regression("x", loss="mae"), "accepted are mse, huber"),
        (lambda: Outputs(8, 2, -3), "hidden_width is -3"),
        (lambda: RowHead(nn.Identity(), "max"), "accepted are last, mean"),
    ],
)
def test_wrong_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
