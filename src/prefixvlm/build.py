"""Build the module, the data module and the trainer of a configuration: the only place that builds its components."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment
from omegaconf import OmegaConf

from prefixvlm.callbacks.throughput import Throughput
from prefixvlm.checkpoint.untrusted import require
from prefixvlm.data.collates import Collates
from prefixvlm.data.datamodule import ShardDataModule
from prefixvlm.features.choose_cache import choose_cache
from prefixvlm.features.write import check_features
from prefixvlm.metrics.score_kind import LOSS, ScoreKind
from prefixvlm.options.component_check import check, parameters_of
from prefixvlm.options.components import build_component, resolve_target
from prefixvlm.provenance.redaction import redact
from prefixvlm.task.interface import Task
from prefixvlm.training.checkpoint import KEY, RunRecord
from prefixvlm.training.checkpoint_file import AtomicCheckpointIO
from prefixvlm.training.module import PrefixModule
from prefixvlm.training.sharding import RankSynchronizer, trainer_options

# A checkpoint chooses neither the files to write nor the modules to import.
NOT_STORED = ("run_dir", "callbacks", "logger", "plugins")


def plain(cfg: Any) -> Any:
    """Return a configuration as plain containers, with every interpolation resolved."""
    return OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg


def make(axis: str, node: Any, **passed: Any) -> Any:
    """Build the component of a configuration node, with those of the passed arguments that its signature takes."""
    node = plain(node)
    check(axis, node, passed)
    if "_target_" not in node:
        raise ValueError(f"{axis} has no _target_; choose one as {axis}=NAME")
    accepted = parameters_of(resolve_target(axis, node["_target_"]))
    taken = {name: value for name, value in passed.items() if name in accepted or not accepted}
    try:
        return build_component(axis, node, taken)
    except (ValueError, OSError):
        raise
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(f"{axis} cannot be built: {reason.strip()}") from error


def build_module(cfg: Any, provenance: Mapping[str, Any] | None = None) -> LightningModule:
    """Build the LightningModule from its encoder, language model and mapper, which takes its widths from both.

    provenance: commit, versions and command of the run, for its checkpoints.
    """
    cfg = plain(cfg)
    parts: dict[str, Any] = {}
    if cfg.get("encoder"):
        # Forked, so that the mapper has the same initial weights with a real encoder as with stored features.
        with torch.random.fork_rng(devices=[]):
            parts["encoder"] = make("encoder", cfg["encoder"])
    if cfg.get("lm"):
        parts["lm"] = make("lm", cfg["lm"])
        with torch.random.fork_rng(devices=[]):  # and with any method of tuning
            for method in _tuning_methods(cfg):
                method.apply(parts["lm"])
    if cfg.get("mapper"):
        parts["mapper"] = _build_mapper(cfg["mapper"], parts)
    if cfg.get("task"):
        parts["task"] = build_tasks(cfg)
    if cfg.get("optim"):
        parts["optim"] = make("optim", cfg["optim"])
    record = RunRecord(redact(_stored_config(cfg, parts)), provenance or {})
    return make("module", cfg["module"], **parts, record=record)


def _build_mapper(node: Mapping[str, Any], parts: Mapping[str, Any]) -> Any:
    if not {"encoder", "lm"} <= parts.keys():
        raise ValueError("a mapper needs an encoder and a language model; set encoder and lm, not null")
    encoder, lm = parts["encoder"], parts["lm"]
    widths = {"feature_width": encoder.feature_width, "num_features": encoder.num_features, "lm_width": lm.width}
    return make("mapper", node, **widths, grid=encoder.grid)


def build_tasks(cfg: Any) -> dict[str, Task]:
    """Build the tasks by name. Raises ValueError for options of a task that is not chosen."""
    tasks = {}
    for name, node in (plain(cfg).get("task") or {}).items():
        # Happens if an experiment sets options of its task, and the command line sets task= to another one.
        if "_target_" not in (node or ()):
            raise ValueError(
                f"task.{name} has options, but task {name} is not chosen; set ~task.{name}, or task to it too"
            )
        tasks[name] = make(f"task.{name}", node)
    return tasks


def score_kinds(cfg: Any) -> dict[str, ScoreKind]:
    """Return the direction and digits of the values that a run can monitor, by their logged names."""
    cfg = plain(cfg)
    kinds = {"val/loss": LOSS, "train/loss": LOSS}
    kinds |= getattr(resolve_target("module", cfg["module"]["_target_"]), "score_kinds", {})
    for name, task in build_tasks(cfg).items():
        kinds |= {f"{stage}/{name}_{score}": k for stage in ("val", "test") for score, k in task.score_kinds.items()}
    return kinds


def stored_config(cfg: Any) -> dict[str, Any]:
    """Return the part of a run's configuration that is stored in its checkpoints."""
    return {key: value for key, value in plain(cfg).items() if key not in NOT_STORED}


def _stored_config(cfg: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    config = stored_config(cfg)
    # The tuned weights are float32, whatever lm.dtype=auto would be on the machine that loads them.
    if "lm" in parts and parts["lm"].own_weights_tuned:
        config["lm"] = {**config["lm"], "dtype": "float32"}
    # With the encoder that computed the features in its place, the checkpoint reads images too.
    if "encoder" in parts and parts["encoder"].reads_features:
        config["encoder"] = parts["encoder"].identity.encoder
    return config


def _tuning_methods(cfg: Mapping[str, Any]) -> list[Any]:
    return [make(f"tune.{name}", node) for name, node in (cfg.get("tune") or {}).items() if node]


def rebuild(cfg: Any, checkpoint: dict[str, Any]) -> PrefixModule:
    """Build a module and load the trained tensors of its checkpoint."""
    require(plain(cfg), "encoder", "lm", "mapper", "module", "task")
    # A checkpoint has no frozen weights. If they are random, the seed of the run draws the same ones.
    with torch.random.fork_rng():
        torch.manual_seed(plain(cfg).get("seed", 0))
        module = build_module(cfg)
    if not isinstance(module, PrefixModule):
        raise ValueError(f"module._target_ is {plain(cfg)['module'].get('_target_')!r}, which is not PrefixModule")
    module.load_trained(checkpoint)
    return module


def build_merged(checkpoint: dict[str, Any]) -> LightningModule:
    """Build the module of a checkpoint in float32, with the tuning of the language model merged into its weights.

    Raises ValueError if nothing was tuned, or if it cannot be merged.
    """
    cfg = checkpoint[KEY]["config"]
    if not cfg.get("tune"):
        raise ValueError("the checkpoint has nothing to merge: it was trained without tune; set --ckpt to another")
    if cfg["lm"].get("quantization"):
        raise ValueError("tuning cannot be merged into a quantised language model; train with lm.quantization=null")
    cfg = {**cfg, "lm": {**cfg["lm"], "dtype": "float32"}}
    module = rebuild(cfg, checkpoint)
    for method in _tuning_methods(cfg):
        method.merge(module.model.lm)
    return module


def check_data(cfg: Any, *stages: str) -> None:
    """Raise ValueError, before anything is loaded or written, if shards of a stage are missing or incomplete."""
    data = make("data", plain(cfg)["data"])
    for stage in stages:
        data.setup(stage)


def build_data(cfg: Any, module: Any, collates: Collates | None = None, **changes: Any) -> ShardDataModule:
    """Build the data module. collates: default to those of the module. changes: options that replace those of cfg."""
    caching = {}
    if isinstance(module, PrefixModule):
        caching["open_feature_cache"] = partial(choose_cache, module.model.encoder, plain(cfg).get("encoder"))
    data = make("data", {**plain(cfg)["data"], **changes}, collates=collates or module.collates, **caching)
    if isinstance(module, PrefixModule):
        check_features(module.model.encoder, data.shards)
    return data


def build_trainer(cfg: Any) -> Trainer:
    """Build the Trainer with its loggers, callbacks and atomic checkpoints."""
    cfg = plain(cfg)
    trainer = cfg["trainer"]
    callbacks = [make(f"callbacks.{name}", node) for name, node in (cfg.get("callbacks") or {}).items() if node]
    options = trainer_options(trainer.get("strategy"))
    if options:
        callbacks.insert(0, RankSynchronizer())  # before callbacks that wait for the other ranks
    loggers = [make(f"logger.{name}", node) for name, node in (cfg.get("logger") or {}).items() if node]
    plugins: list[Any] = [AtomicCheckpointIO()]
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # Lightning's requeue would not find the run folder
    # Only a profiler learns how long Lightning waits for data. One that the user sets takes precedence.
    if not trainer.get("profiler"):
        options["profiler"] = Throughput()
    return make("trainer", trainer, callbacks=callbacks, logger=loggers or False, plugins=plugins, **options)
