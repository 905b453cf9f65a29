"""Checks the command line of train.py or eval.py before torch is imported and before Hydra makes the run's folder."""

import os
import sys
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from prefixvlm import plugins
from prefixvlm.checkpoint.hub_folder import find_here
from prefixvlm.command_line.parse import jobs_of, parse
from prefixvlm.config import check_ranges
from prefixvlm.distributed.world import check_devices, under_srun
from prefixvlm.encoder.local_clip import KEYS, LOCAL, check_local
from prefixvlm.options.component_check import check
from prefixvlm.training import objective

SHARDS = "prefixvlm.data.datamodule.ShardDataModule"


def check_command(conf: Path) -> None:
    """Raise ValueError, or an error of Hydra, for what is wrong in sys.argv; answer --help and exit.

    conf: the folder of configurations; the program's is named as the program. Afterwards sys.argv has the flags behind
    the overrides, and no hyphens before an override: wandb's agents write --KEY=VALUE.
    """
    arguments = parse()
    name = arguments.config_name or Path(sys.argv[0]).stem
    folder = conf.absolute().parent / (arguments.config_path or conf)
    if arguments.help or arguments.hydra_help or arguments.shell_completion or arguments.info or arguments.cfg:
        # Hydra copies all registered configurations anew for each of the 124 groups that it lists, which takes seconds.
        ConfigRepository.__deepcopy__ = lambda self, memo: copy(self)  # type: ignore[attr-defined]
        hydra.main(str(folder), name, "1.3")(lambda cfg: None)()
        sys.exit()
    if arguments.experimental_rerun:
        return
    search_path = create_config_search_path(str(folder))
    if arguments.config_dir:
        if not os.path.isdir(arguments.config_dir):
            raise ValueError(f"there is no folder {arguments.config_dir}; set --config-dir to one of configurations")
        path = f"file://{os.path.abspath(arguments.config_dir)}"
        search_path.prepend("command-line", path, SearchPathQuery(provider="schema"))
    GlobalHydra.instance().clear()
    try:
        composer = Hydra.create_main_hydra2(name, search_path)
        jobs = jobs_of(arguments.overrides) if arguments.multirun else [arguments.overrides]
        options = [_plain(_compose(composer, name, job)) for job in jobs]
        if "run_dir" in options[0] and not arguments.multirun and objective.say_if_finished(options[0]):
            sys.exit()
        for check_each in (_check_values, _check_paths):  # the paths last, because they are read
            for each in options:
                check_each(each)
    finally:
        GlobalHydra.instance().clear()


def _compose(composer: Hydra, name: str, overrides: Sequence[str]) -> DictConfig:
    try:
        return composer.compose_config(name, list(overrides), RunMode.RUN, from_shell=False)
    except (HydraException, OmegaConfBaseException, YAMLError, OSError):  # prefixvlm.errors makes a sentence of these
        raise
    except Exception as error:  # on a defaults list of other types, or other letters, nearly anything
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"the configuration cannot be composed ({type(error).__name__}: {reason}); correct the overrides, or the "
            "file of your own that they name, which must be YAML in UTF-8 with `defaults` as a list"
        ) from error


def _plain(cfg: DictConfig) -> dict[str, Any]:
    """Return the program's own options, with every interpolation resolved."""
    # A folder named by the time is not resolved: torchrun's processes agree on it by a store of torch.
    is_new = "${run_id:" in str(OmegaConf.to_container(cfg.hydra.run)) and not under_srun()
    for resolved in (False, True):  # the folder of the run may be named by what HydraConfig knows
        with read_write(cfg.hydra), open_dict(cfg):
            cfg.hydra.runtime.cwd = os.getcwd()
            cfg.hydra.runtime.output_dir = os.path.abspath(cfg.hydra.run.dir) if resolved and not is_new else "."
        HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    options: Any = OmegaConf.to_container(cfg, resolve=True)
    return options


def _check_values(options: dict[str, Any]) -> None:
    check_ranges(options)
    plugins.announce(options.get("plugins") or ())
    for axis, node in options.items():
        if axis != "benchmark":  # its options that are null are those of the checkpoint
            check(axis, node, before_imports=True)
    if "ckpt" in options:
        check_devices("auto", options["devices"], "devices")
    else:
        trainer = options["trainer"]
        check_devices(str(trainer.get("accelerator", "auto")), trainer.get("devices", 1))


def _check_paths(options: dict[str, Any]) -> None:
    # numpy and PIL, which these import, take a third of a second.
    if "ckpt" in options:
        from prefixvlm.evaluation.options import check_options

        check_options(options)
        _check_file("ckpt", options["ckpt"])
        return
    if options["init_from"]:
        _check_file("init_from", options["init_from"])
    data = options["data"]
    if data.get("_target_") == SHARDS and "://" not in str(data["shards"]):
        from prefixvlm.data.loading.mixture import find_sources
        from prefixvlm.data.shard_cache import DEFAULT_FOLDER, ShardCache

        test = [data.get("test_split", "test")] if options["test"] and options["task"] else []
        for split in ("train", "val", *test):
            find_sources(data["shards"], split, ShardCache(data.get("cache_dir") or DEFAULT_FOLDER))
    encoder, lm = options["encoder"] or {}, options["lm"] or {}
    if (name := str(encoder.get("model_name"))).startswith(LOCAL):
        weights = encoder.get("pretrained")
        check_local(name, None if weights == "random" else weights, KEYS)
    # Other names may be of the hub.
    if (name := str(lm.get("name"))).startswith(("/", "./", "../", "~")) and not Path(name).is_dir():
        raise ValueError(f"there is no folder {name}; set lm.name to the folder of a language model, or to a hub id")


def _check_file(key: str, path: str) -> None:
    if path == MISSING:
        raise ValueError(f"{key} has no value; set it as {key}=VALUE")
    find_here(path, key)
