"""A loss that is not finite stops the run at once, says where it came from, and costs no checkpoint."""

import math

import pytest
import torch
from lightning.pytorch import Callback

from prefixvlm.callbacks.finite_loss import FiniteLoss
from prefixvlm.callbacks.last_checkpoint import LastCheckpoint
from prefixvlm.task.captioning import Captioning
from prefixvlm.training.checkpoint_file import AtomicCheckpointIO, load
from prefixvlm.training.optim import Optim
from tests.training.test_module import data_of, module_of, shards, trainer_of  # noqa: F401

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # of Lightning


class Broken(Callback):
    """Makes the mapper's output NaN in some steps, counted from 1, or in validations, or its gradient in a step."""

    def __init__(self, steps=(), validation=False, gradient=0):
        self.steps, self.validation, self.gradient, self.weights = steps, validation, gradient, []

    def setup(self, trainer, module, stage):
        def output(mapper, inputs, prefix):
            broken = trainer.global_step + 1 in self.steps if module.training else self.validation
            return prefix * math.nan if broken else prefix

        weight = module.model.mapper.linear.weight
        module.model.mapper.register_forward_hook(output)
        weight.register_hook(lambda grad: grad * math.nan if trainer.global_step + 1 == self.gradient else grad)

    def on_train_batch_end(self, trainer, module, *args):
        self.weights.append(module.model.mapper.linear.weight.detach().clone())


def fit(shards, *callbacks, folder=None, lr=0.1, max_steps=0, steps=5, **options):  # noqa: F811
    module = module_of(tasks={"captioning": Captioning()})
    module.optim = Optim(torch.optim.SGD, lr=lr, schedule="constant")
    last = [LastCheckpoint(folder, 1)] if folder else []
    trainer = trainer_of(
        *callbacks, FiniteLoss(max_steps), *last, plugins=[AtomicCheckpointIO()], max_steps=steps, **options
    )
    trainer.fit(module, data_of(module, shards, batch_size=2, limit_val_predictions=0), weights_only=True)
    return trainer


def test_a_diverged_run_stops_at_its_first_loss_that_is_not_finite(shards):  # noqa: F811
    expected = r"^the loss is not finite at step 2, at learning rate 1e\+38, with .*; set optim.lr to less"
    with pytest.raises(ValueError, match=expected):
        fit(shards, lr=1e38)


def test_the_samples_are_named_and_the_checkpoint_before_stays(shards, tmp_path):  # noqa: F811
    with pytest.raises(ValueError, match=r"at step 3, at learning rate 0.1, with the samples train-00\d, train-00\d;"):
        fit(shards, Broken(steps=[3]), folder=tmp_path)
    assert load(tmp_path / "last.ckpt")["global_step"] == 2


def test_as_many_steps_as_allowed_are_left_out(shards):  # noqa: F811
    broken = Broken(steps=[2, 4, 5])
    fit(shards, broken, max_steps=2, steps=6)
    same = [torch.equal(a, b) for a, b in zip(broken.weights, broken.weights[1:], strict=False)]
    assert same == [True, False, True, True, False]
    with pytest.raises(ValueError, match="not finite since step 2, at learning rate"):
        fit(shards, Broken(steps=[2, 3, 4]), max_steps=2)


def test_a_broken_batch_of_an_accumulated_step_leaves_the_step_out(shards):  # noqa: F811
    broken = Broken(steps=[2])
    fit(shards, broken, max_steps=1, steps=3, accumulate_grad_batches=2, max_epochs=9)
    assert all(weights.isfinite().all() for weights in broken.weights)
    assert torch.equal(broken.weights[1], broken.weights[3])
    assert not torch.equal(broken.weights[3], broken.weights[5])


def test_weights_that_are_not_finite_overwrite_no_checkpoint(shards, tmp_path):  # noqa: F811
    with pytest.raises(ValueError, match="the trained weights are not finite after step 3; set optim.lr to less"):
        fit(shards, Broken(gradient=3), folder=tmp_path)
    assert load(tmp_path / "last.ckpt")["global_step"] == 2


def test_nan_is_nan_in_the_mean_over_the_validation(shards):  # noqa: F811
    module = module_of(tasks={"captioning": Captioning()})
    trainer = trainer_of()
    seen = []
    module.model.mapper.register_forward_hook(lambda m, x, y: seen.append(1) or (y * math.nan if len(seen) == 1 else y))
    trainer.validate(module, data_of(module, shards, limit_val_predictions=0), verbose=False)
    assert len(seen) == 3
    assert trainer.callback_metrics["val/loss"].isnan()


def test_a_validation_loss_that_is_not_finite_stops_the_fit(shards, tmp_path):  # noqa: F811
    names = "val-000, val-001, val-002, val-003, val-004 and 2 more"
    with pytest.raises(ValueError, match=f"^val/loss is nan after step 2, with the samples {names}; set optim.lr"):
        fit(shards, Broken(validation=True), folder=tmp_path)
    assert load(tmp_path / "last.ckpt")["global_step"] == 1
