"""Changed prefixes against models that get the changed prefix by themselves."""

import pytest
import torch
from PIL import Image

from prefixvlm.inspect.prefix_changes import prefix_changes
from prefixvlm.model.prefix_lm import PrefixLM
from tests.inspect.conftest import make_target


def said_with(target, prefix):
    """What the model says and the log-probabilities, if its mapper returns this prefix."""
    model = target.model
    forward = model.mapper.forward
    model.mapper.forward = lambda features: prefix.expand(len(features), -1, -1)
    try:
        with torch.no_grad():
            log_probs = -PrefixLM.forward(model, target.batch)[: len(target.tokens)]
        return target.task.predict(model, target.prompt)[0].prediction, log_probs
    finally:
        model.mapper.forward = forward


def test_changes_are_those_of_a_mapper_that_returns_the_changed_prefix(target):
    other = target.model.encoder.transform(Image.new("RGB", (8, 8), "red"))[None]
    found = prefix_changes(target, [("red.png", other)])
    with torch.no_grad():
        prefix, red = target.prefix()[0], target.model.prefix_embeds(other)[0]
        black = target.model.prefix_embeds(target.model.encoder.transform(Image.new("RGB", (9, 9)))[None])[0]
    torch.testing.assert_close(found.log_probs, said_with(target, prefix)[1])
    by_name = {change.name: change for change in found.whole}
    assert list(by_name) == [
        "shuffled (1)",
        "shuffled (2)",
        "shuffled (3)",
        "all left out: a black image",
        "of red.png",
    ]
    for name, changed in (("of red.png", red), ("all left out: a black image", black)):
        text, log_probs = said_with(target, changed)
        assert by_name[name].said == text
        torch.testing.assert_close(by_name[name].log_probs, log_probs)
        assert not torch.allclose(log_probs, found.log_probs)
    orders = [prefix[list(order)] for order in ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))]
    shuffled = [said_with(target, order)[1] for order in orders]
    for number in (1, 2, 3):
        found_one = by_name[f"shuffled ({number})"].log_probs
        assert any(torch.allclose(found_one, each, atol=1e-5) for each in shuffled)
    for place in range(3):
        one = prefix.clone()
        one[place] = black[place]
        text, log_probs = said_with(target, one)
        assert (found.without[place].name, found.without[place].said) == (str(place + 1), text)
        torch.testing.assert_close(found.without[place].log_probs, log_probs)


@pytest.mark.parametrize("target", ["gpt2"], indirect=True)
def test_a_prefix_of_one_embedding_is_not_shuffled(target, noise):
    mapper = target.model.mapper
    mapper.prefix_length, mapper.linear = 1, torch.nn.Linear(mapper.linear.in_features, 32).double()
    found = prefix_changes(make_target(target.model, noise))
    assert [change.name for change in found.whole] == ["all left out: a black image"]
    torch.testing.assert_close(found.without[0].log_probs, found.whole[0].log_probs)


@pytest.mark.parametrize("target", ["gpt2"], indirect=True)
def test_many_embeddings_are_left_out_in_parts(monkeypatch, target):
    monkeypatch.setattr("prefixvlm.inspect.prefix_changes.MAX_PARTS", 2)
    found = prefix_changes(target)
    assert [change.name for change in found.without] == ["1 to 2", "3"]
    with torch.no_grad():
        changed = target.prefix()[0].clone()
        changed[:2] = target.model.prefix_embeds(torch.full_like(target.pixel_values, -1))[0, :2]
    torch.testing.assert_close(found.without[0].log_probs, said_with(target, changed)[1])
