"""Parameter groups and learning-rate schedules, compared with torch's schedulers."""

import math

import pytest
import torch

from prefixvlm.training.optim import Optim


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Linear(2, 2)
        self.mapper = torch.nn.Linear(2, 2)
        self.frozen = torch.nn.Linear(2, 2).requires_grad_(False)


def test_each_part_has_groups_of_its_own_name_in_the_model_s_order():
    named = [(f"model.{name}", parameter) for name, parameter in Model().named_parameters()]
    for decay, names in (
        (0.1, ["encoder", "encoder_no_decay", "mapper", "mapper_no_decay"]),
        (0, ["encoder", "mapper"]),
    ):
        groups = Optim(torch.optim.AdamW, lr=1.0, weight_decay=decay).build(named, 10)["optimizer"].param_groups
        assert [group["name"] for group in groups] == names
        assert sum(len(group["params"]) for group in groups) == 4


def test_decay_on_matrices_only_and_the_learning_rate_of_the_encoder():
    model = Model()
    optim = Optim(torch.optim.AdamW, lr=1.0, weight_decay=0.1, encoder_lr=0.01)
    groups = optim.build(model.named_parameters(), 10)["optimizer"].param_groups
    by_parameter = {id(p): (g["initial_lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert by_parameter == {
        id(model.encoder.weight): (0.01, 0.1),
        id(model.encoder.bias): (0.01, 0.0),
        id(model.mapper.weight): (1.0, 0.1),
        id(model.mapper.bias): (1.0, 0.0),
    }


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("constant", 0, 1 / 11), ("constant", 10, 1.0), ("constant", 99, 1.0),
        ("linear", 10, 1.0), ("linear", 55, 0.5), ("linear", 100, 0.0),
        ("cosine", 10, 1.0), ("cosine", 55, 0.5), ("cosine", 32.5, (1 + math.cos(math.pi / 4)) / 2),
    ],
)  # fmt: skip
def test_schedules(schedule, step, expected):
    for warmup_steps in (10, 0.1):
        optim = Optim(torch.optim.SGD, lr=1.0, warmup_steps=warmup_steps, schedule=schedule)
        assert optim.factor(step, 100) == pytest.approx(expected)


def test_sgd_with_momentum_trains_and_unknown_names_are_errors():
    model = Model()
    built = Optim(lambda groups: torch.optim.SGD(groups, momentum=0.9), lr=0.1).build(model.named_parameters(), 10)
    assert built["optimizer"].param_groups[0]["momentum"] == 0.9
    with pytest.raises(ValueError, match="optim.schedule is 'cosin'; accepted are constant, linear, cosine"):
        Optim(torch.optim.SGD, lr=0.1, schedule="cosin")
    with pytest.raises(ValueError, match="no parameter is trained"):
        Optim(torch.optim.SGD, lr=0.1).build(model.frozen.named_parameters(), 10)


def test_the_learning_rate_of_the_language_model_and_no_decay_on_vectors():
    named = [
        ("model.mapper.weight", torch.nn.Parameter(torch.ones(3, 2))),
        ("model.heads.classification.weight", torch.nn.Parameter(torch.ones(3, 2))),
        ("model.lm.conv", torch.nn.Parameter(torch.ones(3, 2, 1, 1))),
        ("model.lm.ia3_l", torch.nn.Parameter(torch.ones(3, 1))),
    ]
    optim = Optim(torch.optim.AdamW, lr=1.0, weight_decay=0.1, encoder_lr=0.01, lm_lr=0.5)
    groups = optim.build(named, 10)["optimizer"].param_groups
    assert [(g["name"], g["initial_lr"], g["weight_decay"]) for g in groups] == [
        ("mapper", 1.0, 0.1),
        ("heads", 1.0, 0.1),
        ("lm", 0.5, 0.1),
        ("lm_no_decay", 0.5, 0.0),
    ]
    groups = Optim(torch.optim.AdamW, lr=1.0, lm_lr=0.0).build(named, 10)["optimizer"].param_groups
    assert {g["name"]: g["initial_lr"] for g in groups} == {"mapper": 1.0, "heads": 1.0, "lm": 0.0}


@pytest.mark.parametrize("key", ["lr", "weight_decay", "warmup_steps", "encoder_lr", "lm_lr"])
def test_negative_values_are_refused(key):
    with pytest.raises(ValueError, match=rf"optim.{key} is -1; it must be a float of 0 or more"):
        Optim(torch.optim.AdamW, **{"lr": 0.1, key: -1})


def test_a_run_without_a_number_of_steps_needs_a_schedule_without_an_end():
    named = list(Model().named_parameters())
    for options in ({"schedule": "cosine"}, {"schedule": "constant", "warmup_steps": 0.1}):
        with pytest.raises(ValueError, match=r"set trainer\.max_steps, or optim\.schedule=constant"):
            Optim(torch.optim.SGD, lr=1.0, **options).build(named, math.inf)
    for warmup_steps in (0, 4):
        optim = Optim(torch.optim.SGD, lr=1.0, schedule="constant", warmup_steps=warmup_steps)
        built = optim.build(named, math.inf)
        assert built["lr_scheduler"]["scheduler"].get_last_lr() == [1.0 if not warmup_steps else 0.2] * 2
