"""docs/extending.md as it stands: a mapper, an encoder, a task, a caption metric and a data set from another folder."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from prefixvlm.options.component_check import check
from tests.test_end_to_end import ROOT, run, tiny_gpt2

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([\w/]+\.(?:py|yaml))`\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = re.search(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[1].splitlines()
ALL = "plugins=[my_mappers,my_encoders,my_tasks]"
SMALL = ["lm=gpt2", "lm.dtype=float32", "logger=csv", "data.batch_size=16", "trainer.max_epochs=8", "optim.lr=0.01"]
SMALL += ["tune=all", "data.eval_batch_size=64"]  # a random language model learns to spell only if it is trained


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files of the page, the shards and the two runs of its commands, and what these printed."""
    folder = tmp_path_factory.mktemp("my_folder")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    lm = f"lm.name={tiny_gpt2(folder / 'gpt2')}"
    former = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(folder)
    for command in COMMANDS:
        words = shlex.split(command)
        if words[0] == "prefixvlm":
            run("-m", "prefixvlm.cli", *words[1:], cwd=folder)
        else:
            changes = [lm, *SMALL] if words[1] == "train.py" else []
            changes += ["trainer.max_epochs=1"] if "task=captioning_recall" in words else []
            options = ["--config-dir", "conf"] if "--config-dir" in words else []
            overrides = [word for word in words[2:] if word not in options]
            run(ROOT / words[1], *options, *overrides, *changes, cwd=folder)
    yield folder
    os.environ.pop("PYTHONPATH")
    if former is not None:
        os.environ["PYTHONPATH"] = former


def test_the_page_has_a_file_and_a_yaml_for_each():
    assert sorted(FILES) == sorted([
        "my_mappers.py", "conf/mapper/gated.yaml", "my_encoders.py", "conf/encoder/colour_grid.yaml", "my_tasks.py",
        "conf/task/main_colour.yaml", "my_metrics.py", "conf/task/captioning_recall.yaml", "my_squares.py",
        "conf/data/my_squares.yaml",
    ])  # fmt: skip


def test_a_task_of_ones_own_learns_is_monitored_evaluated_and_reported(folder):
    result = json.loads((folder / "outputs/colours/eval/metrics.json").read_text())["tasks"]["main_colour"]
    assert result["scores"]["accuracy"] > result["blind"]["accuracy"] + 20
    assert result["scores"]["edit_distance"] < result["blind"]["edit_distance"]
    assert result["higher_is_better"] == {"accuracy": True, "edit_distance": False}
    assert result["digits"]["edit_distance"] == 1
    page = (folder / "outputs/colours/eval/report.html").read_text()
    assert "edit_distance" in page
    written = json.loads((folder / "outputs/colours/objective.json").read_text())
    assert written["higher_is_better"]["val/main_colour_edit_distance"] is False  # for the report of a sweep
    rows = (folder / "outputs/colours/csv/metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("val/main_colour_edit_distance")
    values = [float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column]]
    assert written["value"] == pytest.approx(min(values))


def test_it_is_predicted_and_shown_as_the_task_says(folder):
    Image.new("RGB", (48, 48), (220, 30, 30)).save(folder / "mine.png")
    ckpt = ["--ckpt", "outputs/colours/checkpoints/best.ckpt"]
    command = ["-m", "prefixvlm.cli", "--plugins", "my_mappers,my_encoders,my_tasks", "predict", "mine.png", *ckpt]
    assert run(*command, cwd=folder).stdout == "mine.png\tcolour: red\n"


def test_a_monitor_of_its_score_in_the_wrong_direction_is_refused(folder):
    changes = ["--config-dir", "conf", ALL, "data=my_squares", "encoder=colour_grid", "mapper=gated"]
    task = ["task=main_colour", "monitor=val/main_colour_edit_distance", "monitor_mode=max", "lm=gpt2"]
    error = run(ROOT / "train.py", *changes, *task, code=2, cwd=folder).stderr
    assert "val/main_colour_edit_distance is best at its minimum; set monitor_mode=min" in error


def test_a_caption_metric_of_ones_own_is_scored_and_monitored(folder):
    rows = (folder / "outputs/recall/csv/metrics.csv").read_text().splitlines()
    assert {"val/captioning_word_recall", "test/captioning_word_recall"} <= set(rows[0].split(","))
    assert 0 < json.loads((folder / "outputs/recall/objective.json").read_text())["value"] <= 100


def test_a_checkpoint_names_no_plug_in_and_the_sentence_says_how_to(folder):
    """Importing a module runs it, so a checkpoint that asks for one is refused unless the user names it too."""
    error = run(ROOT / "eval.py", "ckpt=outputs/colours/checkpoints/best.ckpt", code=2, cwd=folder).stderr
    assert "encoder._target_ is 'my_encoders.ColourGrid'; accepted are the subclasses of prefixvlm.encoder." in error
    assert "plugins=[my_encoders]" in error
    words = ["--config-dir", "conf", "data=my_squares", "plugins=[no_such_module]"]
    error = run(ROOT / "train.py", *words, code=2, cwd=folder).stderr
    assert "plugins names 'no_such_module', which cannot be imported" in error


def test_what_a_plug_in_merely_imports_is_not_allowed(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    (folder / "my_imports.py").write_text("from os import system\nfrom shutil import rmtree\n")
    monkeypatch.setattr("prefixvlm.plugins._named", {"my_imports"})
    for name in ("system", "rmtree"):
        with pytest.raises(ValueError, match=f"my_imports.{name}'; accepted are"):
            check("mapper", {"_target_": f"my_imports.{name}"})


def test_an_installed_package_may_name_plug_ins(folder, monkeypatch):
    """By an entry point: here of a package that is nothing but its metadata."""
    info = folder / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[prefixvlm.plugins]\nanything = my_mappers\n")
    check = "from prefixvlm.options.component_check import check; check"
    code = f"{check}('mapper', {{'_target_': 'my_mappers.GatedMapper'}}); print(1)"
    (Path(folder) / "check.py").write_text(code)
    assert run(folder / "check.py", cwd=folder, PYTHONPATH=str(folder)).stdout == "1\n"
