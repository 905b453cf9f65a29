"""The tune axis on the command line: one tuning, several, none; and older checkpoints."""

import json

import pytest
import torch

from prefixvlm.training.checkpoint import KEY
from prefixvlm.training.checkpoint_file import load
from tests.test_end_to_end import parts, run  # noqa: F401

SHORT = ["trainer.max_steps=2", "test=false", "task=captioning"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tuning", "names", "shown"),
    [
        ("lora", {"lora"}, "lm: lora "),
        ("[layer_norms,biases]", {"layer_norms", "biases"}, "lm: layer_norms, biases "),
        ("none", set(), "lm  "),
        ("[]", set(), "lm  "),
    ],
)
def test_one_tuning_or_several_or_none(tuning, names, shown, parts, tmp_path):  # noqa: F811
    done = run("train.py", *parts, *SHORT, f"tune={tuning}", "optim.lm_lr=1e-4", f"hydra.run.dir={tmp_path}/run")
    line = next(line for line in done.stdout.splitlines() if line.startswith(shown))
    assert ("learning rate 0.0001" in line) == bool(names)
    checkpoint = load(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert set(checkpoint[KEY]["config"]["tune"]) == names
    assert any(name.startswith("model.lm.") for name in checkpoint["state_dict"]) == bool(names)
    ckpt = f"ckpt={tmp_path}/run/checkpoints/last.ckpt"
    run("eval.py", ckpt, f"out={tmp_path}/eval", "blind=false", "limit=2", "java=false")
    result = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert result["model"]["trained_parameters"] == sum(v.numel() for v in checkpoint["state_dict"].values())


@pytest.mark.slow
def test_a_checkpoint_without_tune_in_its_config_is_evaluated(parts, tmp_path):  # noqa: F811
    run("train.py", *parts, *SHORT, f"hydra.run.dir={tmp_path}/run")
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint = load(path)
    assert checkpoint[KEY]["config"].pop("tune") == {}
    del checkpoint[KEY]["config"]["optim"]["lm_lr"]
    torch.save(checkpoint, path)
    run("eval.py", f"ckpt={path}", f"out={tmp_path}/eval", "blind=false", "limit=2", "java=false")


@pytest.mark.slow
def test_resuming_is_exact_with_dropout_and_tuned_weights(parts, tmp_path):  # noqa: F811
    options = [*parts, *SHORT[1:], "tune=all", "optim.lr=1e-3", "optim.schedule=constant", "optim.warmup_steps=0"]
    run("train.py", *options, "trainer.max_steps=4", f"hydra.run.dir={tmp_path}/whole")
    for steps in (2, 4):
        run("train.py", *options, f"trainer.max_steps={steps}", f"hydra.run.dir={tmp_path}/parts")
    whole, resumed = (load(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("whole", "parts"))
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name


@pytest.mark.slow
def test_half_precision_is_an_error_that_names_its_key(parts, tmp_path):  # noqa: F811
    options = [*parts, *SHORT, "lm.dtype=bfloat16", "tune=layer_norms", f"hydra.run.dir={tmp_path}/run"]
    error = run("train.py", *options, code=2).stderr
    assert "tune.layer_norms trains weights that are torch.bfloat16; set lm.dtype=float32" in error
    assert "Traceback" not in error
