"""examples/fast_binding.py: its commands compose, and texts are ranked as their images would be."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from prefixvlm.batch import Row
from prefixvlm.config import compose_run
from prefixvlm.data.sample import Question, Sample
from prefixvlm.task.fast_binding import FastBinding
from tests.conftest import collator_of
from tests.model import naive

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(ROOT / "examples" / "fast_binding.py"))


def test_every_training_composes(example):
    commands = {name: args for name, args in example["stages"]([0, 4]).items() if name.startswith("train_")}
    runs = {name: compose_run(args[2:]) for name, args in commands.items()}
    assert {name: cfg.seed for name, cfg in runs.items()} == {"train_0": 0, "train_4": 4}
    assert all(list(cfg.task) == ["captioning"] for cfg in runs.values()), "no episode is trained on"


def test_texts_stand_in_the_place_of_images(example, model):
    task = FastBinding(" This is a", induction="", calibrate=True)
    question = Question("q", "?", ("dax",), ("blicket", "dax"))
    support = ((None, "This is a dax."), (None, "This is a blicket."))
    kinds = ("red circle", "blue box")
    sample = Sample("k", None, (), (question,), {"kind": kinds[0]}, {}, support, {"kinds": kinds})
    shown = SimpleNamespace(module=SimpleNamespace(model=model), batch=lambda rows: collator_of(model)(rows, False))
    prompts = [f"a red circle This is a dax. a blue box This is a blicket. a {kind} This is a" for kind in
               (kinds[0], *kinds)]  # fmt: skip
    raw, *others = [naive.likelihoods(model, Row((text,)), list(question.choices)) for text in prompts]
    scores = [value - sum(each[n] for each in others) / 2 for n, value in enumerate(raw)]
    expected = [float(values[1] > values[0]) for values in (raw, scores)]
    assert example["rank_texts"](shown, task, [sample]) == [expected]


def test_the_table_has_means_over_seeds_and_intervals_over_episodes(example, capsys):
    options = example["parser"]().parse_args(["--seeds", "0", "1", "--episodes", "4"])
    results = {
        f"images x3 seed {seed}": {"ranking": [0.0, 100.0, 0.0, 100.0], "calibrated": [100.0 * seed] * 4}
        for seed in (0, 1)
    }
    example["print_table"](results, options)
    assert "| images | 3 | 50.0 (0.0 to 100.0) | 50.0 (50.0 to 50.0) | 0.0, 100.0 |" in capsys.readouterr().out


def test_leads_are_paired_by_episode_and_averaged_over_seeds(example, capsys):
    values = {"images": [[100.0, 100.0, 0.0], [100.0, 0.0, 0.0]], "black": [[0.0, 100.0, 0.0], [0.0, 0.0, 0.0]]}
    results = {
        f"{condition} x3 seed {seed}": {"calibrated": values[condition][seed]}
        for condition in values
        for seed in (0, 1)
    }
    example["print_leads"](results, [0, 1])
    # Of the first episode 100 with both seeds, of the others 0.
    assert capsys.readouterr().out.splitlines() == ["images x3, calibrated, over black: 33.3 (0.0 to 100.0)"]
