"""The loss against that of transformers; frozen weights; splicing."""

import copy

import pytest
import torch
import torch.nn.functional as F

from prefixvlm.batch import IGNORE_INDEX, IMAGE_ID, Row
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.model.splice import splice
from prefixvlm.model.trained_state import count_parameters, fingerprint, trained_state
from tests.conftest import collator_of, tiny_model


def rows_of(images):
    return [
        Row((images[0], "Q: what? A:"), " red"),
        Row((images[1],), "a much longer caption than the others"),
        Row((images[0], "and ", images[2], "then"), "x"),
    ]


@torch.no_grad()
def test_loss_equals_full_logits_of_each_row_alone(model, images):
    collate = collator_of(model)
    ours = model(collate(rows_of(images)))
    expected = []
    for row in rows_of(images):
        batch = collate([row])
        positions = torch.arange(batch.input_ids.shape[1])[None]
        logits = model.lm.model(
            inputs_embeds=model.inputs_embeds(batch), attention_mask=batch.attention_mask.long(), position_ids=positions
        ).logits
        targets = batch.labels[0, 1:]
        losses = F.cross_entropy(logits[0, :-1].double(), targets, ignore_index=IGNORE_INDEX, reduction="none")
        expected.append(losses[targets != IGNORE_INDEX])
    torch.testing.assert_close(ours.double(), torch.cat(expected), atol=1e-4, rtol=1e-4)


def test_eos_is_trained_and_padding_is_not_where_both_share_an_id(model, images):
    assert model.lm.pad_id == model.lm.eos_id
    batch = collator_of(model)(rows_of(images))
    supervised = batch.labels != IGNORE_INDEX
    lengths = [len(" red") + 1, len("a much longer caption than the others") + 1, len("x") + 1]
    assert supervised.sum(1).tolist() == lengths
    for row, mask in zip(batch.labels, batch.attention_mask, strict=True):
        assert row[mask][-1] == model.lm.eos_id
        assert (row[~mask] == IGNORE_INDEX).all()


def test_logits_are_computed_at_supervised_positions_only(model, images):
    seen = []
    head = model.lm.model.get_output_embeddings()
    head.register_forward_hook(lambda module, args, out: seen.append(out.shape[:-1].numel()))
    batch = collator_of(model)(rows_of(images))
    losses = model(batch)
    assert seen == [len(losses)] == [int((batch.labels != IGNORE_INDEX).sum())]


def test_frozen_is_frozen_and_gradients_reach_the_mapper_through_it(model, images):
    batch = collator_of(model)(rows_of(images))
    before = copy.deepcopy(dict(model.named_parameters()))
    print_before = fingerprint(model.lm)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        model(batch).mean().backward()
        optimizer.step()
    assert not any(module.training for module in model.lm.modules())
    for name, parameter in model.named_parameters():
        if name.startswith("mapper."):
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0
            assert not torch.equal(parameter, before[name])
        else:
            assert parameter.grad is None
            assert not parameter.requires_grad
            assert torch.equal(parameter, before[name])  # bit for bit
    assert fingerprint(model.lm) == print_before
    assert set(trained_state(model)) == {"mapper.linear.weight", "mapper.linear.bias"}
    assert count_parameters(model)[0] == (8 + 1) * 3 * model.lm.width


def test_fingerprint_depends_on_weights_but_not_on_the_precision():
    lm = tiny_model("gpt2").lm
    first = fingerprint(lm)
    assert fingerprint(tiny_model("gpt2").lm) == first
    assert fingerprint(tiny_model("gpt2", seed=1).lm) != first
    assert fingerprint(copy.deepcopy(lm).to(torch.bfloat16)) == first
    with torch.no_grad():
        next(lm.parameters())[3, 2] += 1
    assert fingerprint(lm) != first


def test_an_image_of_several_rows_is_encoded_once(model, images):
    rows = [Row((images[0], f"q{i}"), "a") for i in range(5)] + [Row((images[1], images[0]), "b")]
    batch = collator_of(model)(rows)
    assert len(batch.pixel_values) == 2
    assert batch.image_index.tolist() == [0, 0, 0, 0, 0, 1, 0]
    model(batch)
    assert model.encoder.calls == 2


def test_splice_puts_each_prefix_at_its_run():
    embed = torch.nn.Embedding(10, 4)
    prefix = torch.arange(3 * 2 * 4).view(3, 2, 4).float()
    ids = torch.tensor([[IMAGE_ID, IMAGE_ID, 5, 6, 7, 0], [1, IMAGE_ID, IMAGE_ID, 2, IMAGE_ID, IMAGE_ID]])
    out = splice(ids, prefix, torch.tensor([2, 0, 1]), embed)
    assert torch.equal(out[0, :2], prefix[2])
    assert torch.equal(out[1, 1:3], prefix[0])
    assert torch.equal(out[1, 4:], prefix[1])
    assert torch.equal(out[0, 2:], embed(ids[0, 2:]))
    assert torch.equal(out[1, 0], embed(torch.tensor(1)))


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_half_precision_lm_takes_the_prefix_of_a_float32_mapper(family, images):
    model = tiny_model(family)
    model.lm.to(torch.bfloat16)
    loss = model(collator_of(model)(rows_of(images))).mean()
    loss.backward()
    assert loss.dtype == model.mapper.linear.weight.grad.dtype == torch.float32


def test_labels_are_smoothed_in_training_alone(images):
    model = tiny_model("gpt2")
    batch = collator_of(model)(rows_of(images))
    plain = model(batch)
    model.label_smoothing = 0.2
    hidden, targets = model.lm.supervised_states(model.inputs_embeds(batch), batch.attention_mask, batch.labels)
    shares = model.lm.logits(hidden).double().log_softmax(-1)
    expected = -0.8 * shares.gather(1, targets[:, None])[:, 0] - 0.2 * shares.mean(1)
    torch.testing.assert_close(model.train()(batch).double(), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.eval()(batch), plain)


def test_features_get_noise_and_keep_their_norm_in_training_alone(images):
    model = tiny_model("gpt2")
    pixels = torch.rand(2000, 3, 4, 4)
    plain = model.features(pixels)
    model.feature_noise = 0.05
    torch.testing.assert_close(model.eval().features(pixels), plain)
    noisy = model.train().features(pixels)
    torch.testing.assert_close(noisy.norm(dim=-1), plain.norm(dim=-1))
    # The noise across a vector is as drawn; along it there is none, since the norm is restored.
    width = plain.shape[-1]
    assert (noisy - plain).std().item() == pytest.approx(0.05 * ((width - 1) / width) ** 0.5, rel=0.05)


@pytest.mark.parametrize("options", [{"feature_noise": -1.0}, {"label_smoothing": 1.0}])
def test_options_out_of_range_are_refused(options):
    model = tiny_model("gpt2")
    with pytest.raises(ValueError, match="module.* it must be a float"):
        PrefixLM(model.encoder, model.mapper, model.lm, **options)
