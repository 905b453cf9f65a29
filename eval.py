"""The story of an evaluation: rebuild from a checkpoint; predict, also with black images; score; write results."""

import hashlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import hydra
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import TQDMProgressBar
from omegaconf import DictConfig

from prefixvlm import config, run
from prefixvlm.build import build_data, build_module, check_benchmark, check_data, evaluation, make, plain
from prefixvlm.distributed import launch, world
from prefixvlm.distributed.signals import signals
from prefixvlm.errors import job, one_sentence
from prefixvlm.evaluation.clip_scorer import Judge, judges
from prefixvlm.evaluation.demonstrations import set_demonstrations
from prefixvlm.evaluation.trials import over_trials
from prefixvlm.metrics.captions.java import unavailable
from prefixvlm.provenance.record import provenance
from prefixvlm.provenance.redaction import redact
from prefixvlm.report.results import check_writable, describe, join, write_results
from prefixvlm.report.submission import check_one_task, write_submission
from prefixvlm.report.table import text_table
from prefixvlm.training.checkpoint import KEY, load

CONF = Path(__file__).parent / "conf"


def evaluate(cfg: DictConfig, devices: dict[str, int]) -> None:
    """Write metrics.json, predictions.jsonl and report.html to cfg.out."""
    started = time.perf_counter()
    if not cfg.few_shot:
        raise ValueError("few_shot is null; set few_shot.shots=0 for no demonstrations")
    for name in ("trials", "batch_size", "limit", "devices"):
        if cfg[name] is not None and cfg[name] < 1:
            raise ValueError(f"{name} is {cfg[name]}; set it to 1 or more")
    check_benchmark(cfg)
    out = Path(cfg.out or Path(cfg.ckpt).parent.parent / "eval")
    checkpoint = load(cfg.ckpt)
    trained = evaluation(cfg, checkpoint[KEY]["config"])
    if cfg.submission:
        check_one_task(trained.task)
    check_data(trained, "test")
    check_writable(out=out, submission=cfg.submission and Path(cfg.submission).parent)
    seed_everything(trained.seed, workers=True, verbose=False)
    module = build_module(trained)
    module.load_trained(checkpoint)
    data = build_data(trained, module)
    judge = Judge(make("clip", cfg.clip), lambda: data.test_dataloader()[0].samples(images=True)) if cfg.clip else None
    for task in module.tasks.values():
        task.needs_references = cfg.submission is None
        if judge and task.name in ("captioning", "retrieval"):
            task.variant += f"; clip={judge.clip.name}"
    trainer = make(
        "trainer",
        {"_target_": "lightning.pytorch.Trainer", "precision": trained.trainer.precision, **devices},
        logger=False,
        callbacks=[TQDMProgressBar()],
        enable_model_summary=False,
        use_distributed_sampler=False,
    )

    def trials(blind: bool, **changes: Any) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        results = []  # reports and predictions, by task
        for task in module.tasks.values():
            task.judges = judges(task.name, judge, blind, cfg.java)
        for trial in range(cfg.trials):
            few_shot = make("few_shot", plain(cfg.few_shot) | {"seed": cfg.few_shot.seed + trial})
            data = build_data(trained, module, blind=blind, **changes)
            set_demonstrations(module, data, few_shot)
            trainer.test(module, data, verbose=False)
            results.append((dict(module.reports), dict(module.predictions)))
        return results

    seen = trials(blind=False)
    # Black images read alike, so a batch of many asks each different question only once.
    blind = trials(blind=True, eval_batch_size=1024) if cfg.blind else []
    if not trainer.is_global_zero:
        return
    seconds = {"evaluation": round(time.perf_counter() - started, 1)}
    result, lines = join(*over_trials(seen), *over_trials(blind))
    result |= describe(cfg.ckpt, redact(plain(trained)), redact(plain(cfg)), run.parts(module), seconds, provenance())
    result["checkpoint_sha256"] = hashlib.sha256(Path(cfg.ckpt).read_bytes()).hexdigest()
    result["judge"] = judge and judge.describe(module.model.encoder)
    result["missing"] = unavailable() if cfg.java else dict.fromkeys(("meteor", "spice"), "left out by java=false")
    write_results(out, result, lines, run.history(checkpoint), run.examples(checkpoint), data.images)
    if cfg.submission:
        write_submission(cfg.submission, result, lines)
    print(text_table(result))
    print(f"Report: {out / 'report.html'}")


@hydra.main(version_base="1.3", config_path="conf", config_name="eval")
@job
def main(cfg: DictConfig) -> None:
    trainer = {"devices": cfg.devices}
    if (count := world.num_processes(trainer)) > 1:
        with tempfile.TemporaryDirectory() as logs:
            sys.exit(launch.launch(count, logs))
    with signals.installed():
        evaluate(cfg, trainer)


if __name__ == "__main__":
    launch.exit_with_parent()
    run.quiet_known_warnings()
    config.register()
    one_sentence(main, CONF)()
