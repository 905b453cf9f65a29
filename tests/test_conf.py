"""Every choice of every axis composes, names an allowed target and fits its signature."""

import inspect
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import OmegaConf

from prefixvlm import build, config
from prefixvlm.data import sources

CONF = Path(__file__).parents[1] / "conf"
TRAIN = ["data", "encoder", "mapper", "lm", "tune", "task", "module", "optim", "trainer", "callbacks", "logger"]
EVAL = ["task", "clip_scorer"]
CHOICES = {p: f"{p.parent.name}={p.stem}" for p in sorted(CONF.glob("*/*.yaml")) if p.parent.name != "hydra"}
BENCHMARKS = [path.stem for path in CHOICES if path.parent.name == "benchmark"]


def of(*folders, inside=True):
    return [choice for path, choice in CHOICES.items() if (path.parent.name in folders) == inside]


def composed(name, *overrides):
    config.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(name, overrides=list(overrides))
    OmegaConf.resolve(cfg)
    return cfg


@pytest.mark.parametrize("choice", of("benchmark", "clip_scorer", inside=False))
def test_choice_composes_and_binds(choice):
    cfg = composed("train", choice, "run_dir=outputs/x")
    for axis in TRAIN:
        passed = {
            "mapper": ("feature_width", "num_features", "lm_width", "grid"),
            "module": ("encoder", "mapper", "lm", "task", "optim", "record"),
            "data": ("collates",),
            "trainer": ("callbacks", "logger", "plugins"),
        }
        build.check(axis, build.plain(cfg[axis]), passed.get(axis, ()))


@pytest.mark.parametrize("choice", of("benchmark", "clip_scorer", "task"))
def test_choice_of_an_evaluation_composes_and_binds(choice):
    given = ["clip_scorer.name=local-dir:x"] if choice == "clip_scorer=folder" else []
    cfg = composed("eval", choice, "ckpt=x", *given)
    assert cfg[choice.split("=")[0]]
    for axis in EVAL:
        build.check(axis, build.plain(cfg[axis]))


def test_eval_composes():
    cfg = composed("eval", "ckpt=x")
    assert cfg.blind
    assert cfg.benchmark is cfg.clip_scorer is cfg.task is None
    build.make("few_shot", cfg.few_shot)


# Values that differ from their component's own default, and why.
OTHER_VALUES = {
    "data.eval_batch_size": "the same number; in code null is batch_size",
    "data.limit_val": "a run validates on 100 images",
    "mapper.prefix_length": "ClipCap's 10; in code null is one for each feature",
    "mapper.hidden_ratio": "LLaVA-1.5's",
    "mapper.activation": "LLaVA-1.5's",
    "task.captioning.prompt": "in code none, as in ClipCap",
    "task.retrieval.prompt": "as captioning",
    "task.classification.label": "of easy-VQA",
    "task.regression.mean": "of easy-VQA",
    "task.regression.std": "of easy-VQA",
    "tune.ia3.method": "another method than LoRA",
}


@pytest.mark.parametrize("choice", of("data", "mapper", "module", "task", "tune"))
def test_defaults_in_code_and_in_yaml_are_the_same(choice):
    cfg = OmegaConf.load(CONF / f"{choice.replace('=', '/')}.yaml")

    def check(node, key):
        if "_target_" in node:
            parameters = inspect.signature(get_object(node["_target_"])).parameters
            for name, value in node.items():
                default = getattr(parameters.get(name), "default", inspect.Parameter.empty)
                default = list(default) if isinstance(default, tuple) else default
                interpolated = isinstance(value, str) and value.startswith("${")
                if default is not inspect.Parameter.empty and not interpolated and not isinstance(value, dict):
                    assert value == default or f"{key}.{name}" in OTHER_VALUES, f"{key}.{name}"
        for name, value in node.items():
            if isinstance(value, dict):
                check(value, f"{key}.{name}")

    check(OmegaConf.to_container(cfg, resolve=False), choice.split("=")[0])


def test_few_shot_states_every_option_with_its_default():
    written = build.plain(composed("eval", "ckpt=x").few_shot)
    parameters = inspect.signature(get_object(written.pop("_target_"))).parameters
    assert written == {name: parameter.default for name, parameter in parameters.items()}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_names_its_source_split_and_task(name):
    benchmark = composed("eval", f"benchmark={name}", "ckpt=x").benchmark
    assert set(benchmark) == {"source", "shards", "split", "task"}
    assert benchmark.source == name
    assert benchmark.shards == f"data/{name.replace('_', '-')}"
    assert benchmark.split in sources.load(name.replace("_", "-")).SPLITS
    for task, options in build.plain(benchmark.task).items():
        given = {key: value for key, value in options.items() if value is not None}
        made = build.make(f"task.{task}", given)
        assert made.name == task
        assert set(options) - set(given) <= {"prompt", "answers", "decoding"}


def test_make_has_each_benchmark():
    line = next(line for line in (CONF.parent / "Makefile").read_text().splitlines() if line.startswith("BENCHMARKS"))
    assert sorted(line.split(":=")[1].split()) == sorted(name.replace("_", "-") for name in BENCHMARKS)


def test_an_argument_that_the_program_passes_is_no_option():
    node = {"_target_": "prefixvlm.mapper.mlp.MLPMapper", "feature_width": 4}
    with pytest.raises(ValueError, match=r"mapper\.feature_width is not an option of .*MLPMapper"):
        build.make("mapper", node, feature_width=8, num_features=1, lm_width=8)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            {"_target_": "os.system", "command": "x"},
            r"mapper\._target_ is 'os\.system'; accepted are the subclasses of pre",
        ),
        ({"_target_": "builtins.eval"}, "accepted are the subclasses of"),
        ({"_target_": "prefixvlm.training.checkpoint_file.torch.load", "f": "x"}, "accepted are the subclasses of"),
        ({"_target_": "prefixvlm.data.shards.write.tqdm", "fileobj": "pipe:x"}, "accepted are the subclasses of"),
        ({"_target_": "prefixvlm.mapper.mlp.MLPMapper", "prefix_lenght": 4}, r"did you mean mapper\.prefix_length\?"),
        ({"a": [{"_target_": "torch.load", "f": "x"}]}, r"mapper\.a\[0\] takes no component"),
    ],
)
def test_a_target_outside_the_list_or_an_unknown_option_is_one_sentence(node, message):
    with pytest.raises(ValueError, match=message):
        build.check("mapper", node)
