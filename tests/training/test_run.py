"""What a run says of itself at its start."""

import torch
from torch import nn

from prefixvlm.task.captioning import Captioning
from prefixvlm.training.module import PrefixModule
from prefixvlm.training.optim import Optim
from prefixvlm.training.run import what_trains
from prefixvlm.tune.adapters import Adapters
from tests.conftest import MeanEncoder, TinyMapper, tiny_lm


class WithHead(Captioning):
    def head(self, *widths):
        return nn.Linear(4, 2)


def test_each_part_says_how_much_of_it_trains_and_how_fast():
    lm, encoder = tiny_lm("gpt2"), MeanEncoder()
    Adapters().apply(lm)
    encoder.linear.requires_grad_(True)
    optim = Optim(torch.optim.AdamW, lr=8e-4, encoder_lr=2e-6, lm_lr=1e-3, weight_decay=0.1)
    module = PrefixModule(encoder, TinyMapper(lm.width), lm, {"captioning": WithHead()}, optim)
    assert what_trains(module, ["adapters"]) == [
        "encoder                       0.00 M trained      0.00 M frozen   learning rate 2e-06, weight decay 0.1",
        "mapper                        0.00 M trained      0.00 M frozen   learning rate 0.0008, weight decay 0.1",
        "lm: adapters                  0.00 M trained      0.04 M frozen   learning rate 0.001, weight decay 0.1",
        "heads.captioning              0.00 M trained      0.00 M frozen   learning rate 0.0008, weight decay 0.1",
    ]


def test_what_is_frozen_has_no_rate():
    lm = tiny_lm("gpt2")
    module = PrefixModule(
        MeanEncoder(), TinyMapper(lm.width), lm, {"captioning": Captioning()}, Optim(torch.optim.SGD, lr=1.0)
    )
    assert what_trains(module) == [
        "encoder                       0.00 M trained      0.00 M frozen",
        "mapper                        0.00 M trained      0.00 M frozen   learning rate 1, weight decay 0",
        "lm                            0.00 M trained      0.04 M frozen",
    ]
