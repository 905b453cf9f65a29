"""The chunked loss against a plain cross entropy."""

import torch
import torch.nn.functional as F

from prefixvlm.model import token_losses as loss


def test_loss_and_gradient_equal_plain_cross_entropy(monkeypatch):
    monkeypatch.setattr(loss, "CHUNK", 4)
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 50).requires_grad_(False)
    targets = torch.randint(50, (11,))
    weights = torch.rand(11)
    hidden = torch.randn(11, 8, requires_grad=True)
    expected = F.cross_entropy(head(hidden), targets, reduction="none")
    (gradient,) = torch.autograd.grad(expected @ weights, hidden)
    ours = loss.token_losses(hidden, targets, head)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(torch.autograd.grad(ours @ weights, hidden)[0], gradient)
    with torch.no_grad():
        torch.testing.assert_close(loss.token_losses(hidden, targets, head), expected)
