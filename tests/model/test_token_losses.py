"""The chunked loss against a plain cross entropy."""

import pytest
import torch

from prefixvlm.model import token_losses as loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradient_equal_plain_cross_entropy(monkeypatch, smoothing):
    monkeypatch.setattr(loss, "CHUNK", 4)
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 50).requires_grad_(False)
    targets = torch.randint(50, (11,))
    weights = torch.rand(11)
    hidden = torch.randn(11, 8, requires_grad=True)
    log_p = head(hidden).log_softmax(1)
    expected = -(1 - smoothing) * log_p[torch.arange(11), targets] - smoothing * log_p.mean(1)
    (gradient,) = torch.autograd.grad(expected @ weights, hidden)
    ours = loss.token_losses(hidden, targets, head, label_smoothing=smoothing)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(torch.autograd.grad(ours @ weights, hidden)[0], gradient)
    with torch.no_grad():
        torch.testing.assert_close(loss.token_losses(hidden, targets, head, label_smoothing=smoothing), expected)
