"""Evaluate a trained module in several trials, beside its baselines."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning.pytorch import Trainer

from prefixvlm.data.collates import Collates
from prefixvlm.data.datamodule import ShardDataModule
from prefixvlm.encoder.clip import Clip
from prefixvlm.evaluation.clip_scorer import ClipScorer
from prefixvlm.evaluation.demonstrations import draw_demonstrations
from prefixvlm.evaluation.module import EvaluationModule
from prefixvlm.evaluation.nearest import captioning_tasks, nearest_captions, nearest_trial
from prefixvlm.evaluation.notes import notes, scorable
from prefixvlm.evaluation.scorers import extra_scorers
from prefixvlm.evaluation.shuffled import shuffled_trial
from prefixvlm.evaluation.trials import merge_trials
from prefixvlm.metrics.captions.java import unavailable
from prefixvlm.report.results import join
from prefixvlm.task.rows.few_shot import FewShot
from prefixvlm.task.rows.loader_rows import PromptRows
from prefixvlm.training.module import PrefixModule

BLIND_BATCH_SIZE = 1024  # with black images many prompts of a batch are the same, and each is answered once

Reports = tuple[dict[str, dict[str, Any]], dict[str, Sequence[Any]]]  # reports and predictions, both by task


class Evaluator:
    """Evaluates a module in one trial for each set of demonstrations.

    The baselines are black images, the outputs of other images (shuffled.py), and captions of the nearest training
    images (nearest.py).
    build_data: builds the data module with the given options changed. few_shots: few-shot options of each trial.
    clip: adds CLIPScore, and CLIP's own retrieval. java: adds METEOR and SPICE. scored: see TaskScoring.
    nearest: adds the last of these. Raises ValueError if it is true and no task has captions as outputs.
    """

    def __init__(
        self,
        module: PrefixModule,
        trainer: Trainer,
        build_data: Callable[..., ShardDataModule],
        few_shots: Sequence[FewShot],
        clip: Clip | None = None,
        java: bool = False,
        scored: bool = True,
        nearest: bool = False,
    ) -> None:
        self.module, self.trainer, self.build_data, self.few_shots = module, trainer, build_data, few_shots
        self.java, self.scored = java, scored
        self.data = build_data()
        loader = self.data.test_dataloader()[0]
        self.tasks = scorable(module.tasks, loader.samples) if scored else dict(module.tasks)
        if nearest and not captioning_tasks(self.tasks):
            raise ValueError("nearest is true, but no evaluated task captions images; set nearest=false")
        self.nearest = nearest_captions(module.model.encoder, self.data) if nearest and scored else None
        self.clip_scorer = ClipScorer(clip, lambda: loader.samples(images=True)) if clip else None

    def run(self, blind: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the entries of metrics.json about tasks and scorers, and the lines of predictions.jsonl.

        blind: evaluate with black images too. Both are empty on ranks other than 0.
        """
        seen, black = self._trials(blind=False), self._trials(blind=True) if blind else []
        if not self.trainer.is_global_zero:
            return {}, []
        scorers = extra_scorers(self.tasks, self.clip_scorer, True, self.java)
        shuffled = [
            shuffled_trial(self.tasks, predictions, scorers, few_shot.seed)
            for (_, predictions), few_shot in zip(seen, self.few_shots if self.scored else (), strict=False)
        ]
        baselines: dict[str, Reports] = {"blind": merge_trials(black), "shuffled": merge_trials(shuffled)}
        if self.nearest is not None:
            # Every trial has the same images, and so the same captions.
            baselines["nearest"] = nearest_trial(self.tasks, seen[0][1], scorers, self.nearest)
        result, lines = join(*merge_trials(seen), baselines)
        result["notes"] = notes([name for name in self.module.tasks if name not in self.tasks], result["tasks"])
        result["clip_scorer"] = self.clip_scorer and self.clip_scorer.describe(self.module.model.encoder)
        result["missing"] = unavailable() if self.java else dict.fromkeys(("meteor", "spice"), "left out by java=false")
        return result, lines

    def _trials(self, blind: bool) -> list[Reports]:
        scorers = extra_scorers(self.tasks, self.clip_scorer, blind, self.java)
        return [self._trial(few_shot, blind, scorers) for few_shot in self.few_shots]

    def _trial(self, few_shot: FewShot, blind: bool, scorers: Mapping[str, Any]) -> Reports:
        options: dict[str, Any] = {"blind": True, "eval_batch_size": BLIND_BATCH_SIZE} if blind else {}
        demonstrations = draw_demonstrations(self.module, self.build_data(**options), few_shot)
        prompts = {
            name: PromptRows(task, self.module.collate, demonstrations, self.scored)
            for name, task in self.tasks.items()
        }
        evaluation = EvaluationModule(self.module, scorers, self.scored, self.tasks)
        data = self.build_data(collates=Collates(test=prompts), **options)
        self.trainer.test(evaluation, data, verbose=False)
        reports, predictions = evaluation.scoring.reports, evaluation.scoring.predictions
        if self.clip_scorer and self.trainer.is_global_zero:
            for name in reports.keys() & {"captioning", "retrieval"}:
                reports[name]["variant"] += f"; clip={self.clip_scorer.clip.name}"
        return dict(reports), dict(predictions)
