"""Evaluate a checkpoint: predict with the images and again with black ones, score, and write the results."""

import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from prefixvlm.distributed.signals import exit_on_signals, signals
from prefixvlm.distributed.threads import wait_without_spinning

if __name__ == "__main__":
    exit_on_signals()  # before the imports that take seconds
    wait_without_spinning()  # before torch is imported

from prefixvlm import config
from prefixvlm.command_line.check import check_command
from prefixvlm.errors import job, one_sentence

CONF = Path(__file__).parent / "conf"
if __name__ == "__main__":
    config.register()
    one_sentence(check_command, CONF)(CONF)  # also before them

import hydra
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import TQDMProgressBar
from omegaconf import DictConfig

from prefixvlm import plugins, run
from prefixvlm.build import build_data, check_data, make, plain, rebuild
from prefixvlm.checkpoint.hub_folder import find
from prefixvlm.checkpoint.local_parts import locate, naming_places
from prefixvlm.data.image import ImageDecoder
from prefixvlm.data.shards.manifest import sha256
from prefixvlm.distributed import launch, world
from prefixvlm.evaluation.config import evaluation_config
from prefixvlm.evaluation.evaluate import Evaluator
from prefixvlm.evaluation.options import check_options
from prefixvlm.inference.captioner import Captioner
from prefixvlm.inspect.pages import write_pages
from prefixvlm.model.trained_state import count_parameters
from prefixvlm.provenance.record import provenance
from prefixvlm.provenance.redaction import redact
from prefixvlm.report.gallery import item_scores
from prefixvlm.report.results import check_writable, describe, write_results
from prefixvlm.report.submission import check_one_task, write_submission
from prefixvlm.report.table import text_table
from prefixvlm.training.checkpoint import KEY
from prefixvlm.training.checkpoint_file import load
from prefixvlm.training.run_history import history


def evaluate(cfg: DictConfig, devices: dict[str, int]) -> None:
    """Write metrics.json, predictions.jsonl and report.html to cfg.out."""
    start, options = time.perf_counter(), plain(cfg)
    # Everything that can fail early is checked before hours of work.
    config.check_ranges(options)
    check_options(options)
    path = find(cfg.ckpt)
    checkpoint = load(path)
    out = Path(cfg.out or path.parent.parent / "eval")
    evaluated = evaluation_config(options, locate(checkpoint[KEY]["config"], path))
    if cfg.submission:
        check_one_task(evaluated["task"])
    check_data(evaluated, "test")
    check_writable(out=out, submission=cfg.submission and Path(cfg.submission).parent)
    seed_everything(evaluated.get("seed", 0), workers=True, verbose=False)
    with naming_places(evaluated, path):
        module = rebuild(evaluated, checkpoint)
    few_shots = [make("few_shot", {**options["few_shot"], "seed": cfg.few_shot.seed + n}) for n in range(cfg.trials)]
    precision = (evaluated.get("trainer") or {}).get("precision", "32-true")
    trainer = make(
        "trainer",
        {"_target_": "lightning.pytorch.Trainer", "precision": precision, **devices},
        logger=False, callbacks=[TQDMProgressBar()], enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    clip = make("clip_scorer", cfg.clip_scorer) if cfg.clip_scorer else None
    data_of = partial(build_data, evaluated, module)
    world.tell_if_waiting()
    evaluator = Evaluator(module, trainer, data_of, few_shots, clip, cfg.java, not cfg.submission, cfg.nearest)
    result, lines = evaluator.run(cfg.blind)
    if not trainer.is_global_zero:
        return
    seconds = {"evaluation": round(time.perf_counter() - start, 1)}
    parameters = dict(zip(("trained_parameters", "frozen_parameters"), count_parameters(module), strict=True))
    result |= describe(cfg.ckpt, redact(evaluated), redact(options), parameters, seconds, provenance())
    result["checkpoint_sha256"] = sha256(path)
    write(out, result, lines, checkpoint, evaluator, cfg.inspect)
    if cfg.submission:
        write_submission(cfg.submission, result, lines)
    print(text_table(result), *result["notes"], sep="\n")
    print(f"Report: {out / 'report.html'}")


def write(out: Path, result: Any, lines: Any, checkpoint: Any, evaluator: Evaluator, num_inspected: int) -> None:
    """Write the results and, for some images, pages about why the model said that."""
    parts = result, lines, history(checkpoint), evaluator.data.images
    write_results(out, *parts)  # first, so that no error or interruption of what follows loses them
    if num_inspected:
        captioner = Captioner.of(
            evaluator.module, ImageDecoder.of(result["config"]["data"]), find(result["checkpoint"])
        )
        explained = out, captioner, lines, evaluator.data.images, num_inspected, item_scores(result)
        write_results(out, *parts, write_pages(*explained))


@hydra.main(version_base="1.3", config_path="conf", config_name="eval")
@job
def main(cfg: DictConfig) -> None:
    plugins.enable(cfg.plugins)
    trainer = {"devices": cfg.devices}
    if (count := world.num_processes(trainer)) > 1:
        with tempfile.TemporaryDirectory() as logs:
            sys.exit(launch.launch(count, logs))
    with signals.installed():
        evaluate(cfg, trainer)


if __name__ == "__main__":
    launch.exit_with_parent()
    run.quiet_known_warnings()
    one_sentence(main, CONF)()
