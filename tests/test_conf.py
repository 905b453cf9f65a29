"""Every choice of every axis composes, names an allowed target and fits its signature."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from prefixvlm import build, config

CONF = Path(__file__).parents[1] / "conf"
AXES = ["data", "encoder", "mapper", "lm", "task", "module", "optim", "trainer", "callbacks", "logger"]
CHOICES = [f"{p.parent.name}={p.stem}" for p in sorted(CONF.glob("*/*.yaml")) if p.parent.name != "hydra"]


def composed(name, *overrides):
    config.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(name, overrides=list(overrides))
    OmegaConf.resolve(cfg)
    return cfg


@pytest.mark.parametrize("choice", CHOICES)
def test_choice_composes_and_binds(choice):
    cfg = composed("train", choice, "run_dir=outputs/x")
    for axis in AXES:
        handed = {
            "mapper": dict.fromkeys(("feature_width", "num_features", "lm_width")),
            "module": dict.fromkeys(("encoder", "mapper", "lm", "task", "optim")),
            "trainer": dict.fromkeys(("callbacks", "logger", "plugins")),
        }
        build.check(axis, build.plain(cfg[axis]), handed.get(axis, {}))


def test_eval_composes():
    assert composed("eval", "ckpt=x").blind


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"_target_": "os.system", "command": "x"}, r"mapper\._target_ is 'os\.system'; accepted are names under pre"),
        ({"_target_": "builtins.eval"}, "accepted are names under"),
        ({"_target_": "prefixvlm.training.checkpoint.torch.load", "f": "x"}, "accepted are names under"),
        ({"_target_": "prefixvlm.data.writer.TarWriter", "fileobj": "pipe:x"}, "accepted are names under"),
        ({"_target_": "prefixvlm.mapper.mlp.MLPMapper", "prefix_lenght": 4}, r"did you mean mapper\.prefix_length\?"),
        ({"a": [{"_target_": "torch.load", "f": "x"}]}, r"mapper\.a\[0\]\._target_"),
    ],
)
def test_a_target_outside_the_list_or_an_unknown_option_is_one_sentence(node, message):
    with pytest.raises(ValueError, match=message):
        build.check("mapper", node)
