"""Synthetic sweeps with known means and shares of the variance."""

import argparse
import json
import statistics

import pytest
import yaml

from prefixvlm.sweep.command import add_sweep
from prefixvlm.sweep.compare import effects, set_ups, varied
from prefixvlm.sweep.jobs import read_jobs
from prefixvlm.sweep.report import compare, text_report, write_report


def write_job(folder, number, overrides, value, pruned=False, config=None, rows=()):
    run = folder / str(number)
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(["data=easy_vqa", *overrides]))
    (run / ".hydra" / "config.yaml").write_text(
        yaml.safe_dump({"monitor": "val/loss", "monitor_mode": "min"} | (config or {}))
    )
    if value is not None:
        (run / "objective.json").write_text(json.dumps({"value": value, "pruned": pruned}))
    if rows:
        (run / "csv").mkdir()
        lines = ["step,train/loss,val/loss,test/cider", *rows]
        (run / "csv" / "metrics.csv").write_text("\n".join(lines) + "\n")
    return run


@pytest.fixture
def folder(tmp_path):
    """Return a sweep of two mappers with two seeds and a pruned job; the mapper's effect is nine times the seed's."""
    values = {("linear", 1): 4.0, ("linear", 2): 5.0, ("mlp", 1): 1.0, ("mlp", 2): 2.0}
    for number, ((mapper, seed), value) in enumerate(values.items()):
        rows = [f"{step},{value + 3 - step},," for step in range(3)] + [f"2,,{value},{10 * value}"]
        write_job(
            tmp_path,
            number,
            [f"mapper={mapper}", f"seed={seed}", f"+callbacks.pruner={{trial: {number}}}"],
            value,
            rows=rows,
        )
    write_job(tmp_path, 10, ["mapper=resampler", "seed=1"], 9.0, pruned=True)
    return tmp_path


def test_set_ups_are_means_over_seeds_the_best_first(folder):
    jobs, _ = read_jobs(folder)
    assert [job.name for job in jobs] == ["0", "1", "2", "3", "10"]
    assert varied(jobs) == ["mapper", "seed"]
    found = set_ups(jobs, "val/loss", lower_is_better=True)
    assert [(each.label, each.mean) for each in found] == [
        ("mapper=mlp", 1.5), ("mapper=linear", 4.5), ("mapper=resampler", 9.0)
    ]  # fmt: skip
    assert found[0].spread == pytest.approx(statistics.stdev([1, 2]))
    assert found[2].spread is None
    assert found[2].state == "pruned"
    assert set_ups(jobs, "val/loss", lower_is_better=False)[0].label == "mapper=resampler"


def test_the_share_of_the_variance(folder):
    mapper, seed = effects(read_jobs(folder)[0], "val/loss")
    assert (mapper.option, mapper.eta_squared) == ("mapper", pytest.approx(0.9))
    assert (seed.option, seed.eta_squared) == ("seed", pytest.approx(0.1))
    assert mapper.num_jobs == seed.num_jobs == 4  # without the pruned one
    assert mapper.by_chance == pytest.approx(1 / 3)


def test_many_numbers_are_cut_into_quarters(tmp_path):
    for number in range(16):
        write_job(tmp_path, number, [f"optim.lr={10 ** -(number / 4)}", "seed=1"], float(number // 4))
    (effect,) = effects(read_jobs(tmp_path)[0], "val/loss")
    assert (effect.option, effect.num_values, effect.num_jobs) == ("optim.lr", 4, 16)
    assert effect.eta_squared == pytest.approx(1)
    assert effect.by_chance == pytest.approx(3 / 15)
    page = tmp_path / "page.html"
    write_report(compare(tmp_path), page)
    assert "optim.lr" in page.read_text()


def test_the_table_of_the_terminal(folder):
    lines = text_report(compare(folder)).splitlines()
    assert lines[0].split() == ["mapper", "val/loss", "±", "std", "jobs", "job"]
    assert lines[2].split() == ["mlp", "1.5000", "0.7071", "2", "2", "3"]
    assert lines[4].split() == ["resampler", "9.0000", "\u2013", "1", "10", "pruned"]
    assert lines[8].split() == ["mapper", "90%", "33%", "2", "4"]


def test_another_metric_is_the_last_that_was_logged(folder):
    sweep = compare(folder, "test/cider")
    assert not sweep.lower_is_better
    assert [each.mean for each in sweep.set_ups] == [45, 15, None]
    with pytest.raises(ValueError, match="no job has logged val/lots; logged are test/cider, train/loss, val/loss"):
        compare(folder, "val/lots")


def test_a_score_is_compared_in_the_direction_that_its_run_has_written(tmp_path):
    """By its kind and not by its name; the score of a group in that of the score it extends."""
    for number, mae in enumerate((3.0, 2.0)):
        run = write_job(tmp_path, number, [f"mapper={'ab'[number]}"], 1.0, config={"monitor": "val/r2"})
        (run / "csv").mkdir()
        (run / "csv" / "metrics.csv").write_text(f"step,test/area_mae,test/area_mae_big\n1,{mae},{mae}\n")
        content = {"value": 1.0, "pruned": False, "higher_is_better": {"test/area_mae": False, "val/r2": True}}
        (run / "objective.json").write_text(json.dumps(content))
    for name in ("test/area_mae", "test/area_mae_big"):
        sweep = compare(tmp_path, name)
        assert sweep.lower_is_better
        assert [each.label for each in sweep.set_ups] == ["mapper=b", "mapper=a"]


def test_the_page_is_self_contained(folder, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    add_sweep(parser)
    arguments = parser.parse_args(["report", str(folder), "--out", str(tmp_path / "new" / "x.html")])
    arguments.run(arguments)
    page = (tmp_path / "new" / "x.html").read_text()
    assert "Report: " in capsys.readouterr().out
    assert page.count("<svg") == 2 + 2  # mapper and seed; val/loss and train/loss
    for text in ("mapper=resampler", "90 %", "± 0.7071", "<b>(pruned)</b>", "test/cider", "easy_vqa"):
        assert (text in page) == (text != "mapper=resampler")  # it has no curve
    assert "http" not in page.replace("http://www.w3.org", "").replace("http-equiv", "")
    assert not list((tmp_path / "new").glob(".*"))


def test_names_are_escaped_and_unquoted(tmp_path):
    for number, text in enumerate(("'<b>x</b>'", r"a\ b\:c")):
        write_job(tmp_path, number, [f"prompt={text}"], 1.0)
    sweep = compare(tmp_path)
    assert {each.options["prompt"] for each in sweep.set_ups} == {"<b>x</b>", "a b:c"}
    write_report(sweep, tmp_path / "x.html")
    assert "<b>x" not in (tmp_path / "x.html").read_text()


def test_several_objectives_and_unfinished_jobs(tmp_path):
    config = {"objectives": ["test/cider", "val/loss"], "monitor_mode": "max"}
    write_job(tmp_path, 0, ["seed=1", "mapper=a"], [3.0, 1.0], config=config)
    write_job(tmp_path, 1, ["seed=1", "mapper=b"], None, config=config)
    sweep = compare(tmp_path)
    assert (sweep.metric, sweep.lower_is_better) == ("test/cider", False)
    assert "unfinished" in text_report(sweep)
    write_report(sweep, tmp_path / "x.html")
    assert "val/loss" in (tmp_path / "x.html").read_text()


def test_one_job_and_none(tmp_path):
    with pytest.raises(ValueError, match="holds no runs"):
        compare(tmp_path)
    write_job(tmp_path, 0, ["seed=1"], None)
    with pytest.raises(ValueError, match="no job has ended"):
        compare(tmp_path)
    (tmp_path / "0" / "objective.json").write_text('{"value": 2.0, "pruned": false}')
    sweep = compare(tmp_path)
    assert "2.0000" in text_report(sweep)
    write_report(sweep, tmp_path / "x.html")
