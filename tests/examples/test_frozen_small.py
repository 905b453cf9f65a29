"""examples/frozen_small.py: its commands compose, and its table has the numbers of the files."""

import runpy
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from prefixvlm import config
from prefixvlm.config import compose_run
from prefixvlm.resumable_stages import write_json

ROOT = Path(__file__).parents[2]


@pytest.fixture
def frozen_small():
    return runpy.run_path(str(ROOT / "examples" / "frozen_small.py"))


def test_every_command_composes(frozen_small):
    stages = frozen_small["stages"](frozen_small["parser"]().parse_args(["--seeds", "0", "1", "--steps", "7"]))
    assert len(stages) == 3 + 2 * 3 * (1 + 3)
    trained = {name: compose_run(command[2:]) for name, command in stages.items() if name.startswith("train_")}
    assert all(cfg.trainer.max_steps == 7 and list(cfg.task) == ["captioning"] for cfg in trained.values())
    assert trained["train_blind_0"].data.train_blind
    assert trained["train_scratch_1"].lm.weights == "random"
    assert list(trained["train_scratch_1"].tune) == ["all"]
    assert not trained["train_frozen_1"].tune
    config.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        evaluated = {name: compose("eval", command[2:]) for name, command in stages.items() if name.endswith("shots")}
    assert {cfg.few_shot.shots for cfg in evaluated.values()} == {0, 1, 4}
    assert all(command[0] == sys.executable for command in stages.values())


def test_the_table_has_means_and_standard_deviations(frozen_small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for model, shift in (("frozen", 0), ("blind", 20), ("scratch", 40)):
        for seed in (0, 1):
            history = Path("outputs/frozen_small") / f"{model}_{seed}" / "csv" / "metrics.csv"
            history.parent.mkdir(parents=True)
            history.write_text("step,val/captioning_exact_match\n1,25.0\n2,50.0\n3,\n")
            for shots in (0, 1, 4):
                scores = {"accuracy": shift + shots + 2 * seed, "accuracy_what": shift}
                black = {"accuracy": 90.0 + seed, "accuracy_what": 80.0}
                report = {"scores": scores, "num_items": 480} | (
                    {"blind": black} if model == "blind" or not shots else {}
                )
                folder = Path("outputs/frozen_small") / f"{model}_{seed}" / f"{shots}_shots"
                folder.mkdir(parents=True)
                write_json(folder / "metrics.json", {"tasks": {"vqa": report}})
    table = {model: frozen_small["summarise"](model, [0, 1]) for model in frozen_small["MODELS"]}
    assert table["frozen"]["4_shots"] == [4, 6]
    assert table["frozen"]["captions"] == [50.0, 50.0]
    assert table["frozen"]["0_shots_black"] == [90, 91]
    assert table["blind"]["4_shots"] == [90, 91]
    frozen_small["print_table"](table, frozen_small["parser"]().parse_args(["--seeds", "0", "1"]))
    output = capsys.readouterr().out
    assert "480 questions about 50 test images" in output
    assert "| frozen | 50.0 +- 0.0 | 1.0 +- 1.4 | 0.0 +- 0.0 | 2.0 +- 1.4 |" in output
