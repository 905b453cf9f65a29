"""Sweeps whose files are damaged: each such job is named, and the report of the others is written."""

import json
import os
import re
import sys

import pytest

from prefixvlm import cli
from prefixvlm.sweep.plots import by_option
from prefixvlm.sweep.report import compare, write_report
from tests.sweep.test_report import write_job

DEEP = b'{"value": ' * 10**5
OVERRIDES, CONFIG, OBJECTIVE, METRICS = (
    ".hydra/overrides.yaml",
    ".hydra/config.yaml",
    "objective.json",
    "csv/metrics.csv",
)


def report(folder, monkeypatch, capsys, code=0):
    monkeypatch.setattr(sys, "argv", ["prefixvlm", "sweep", "report", str(folder)])
    if code:
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        assert exit_.value.code == code
    else:
        cli.main()
    output = capsys.readouterr()
    if code:
        assert output.err.count("\n") == 1
        return output.err
    return output.out


def damage(run, name, content):
    path = run / name
    if content is None:
        path.unlink()
    elif content is os.mkdir or content is os.mkfifo:
        path.unlink()
        content(path)
    else:
        path.write_bytes(content)


LEFT_OUT = [
    (OBJECTIVE, b"", "Expecting value"),
    (OBJECTIVE, b'{"value": 1.0, "pru', "Unterminated string"),
    (OBJECTIVE, b"[1]", "Expected `object`, got `array`"),
    (OBJECTIVE, b'{"pruned": false}', "missing required field `value`"),
    (OBJECTIVE, b'{"value": "low"}', "at `value`"),
    (OBJECTIVE, b'{"value": 1.0, "pruned": 3}', "at `pruned`"),
    (OBJECTIVE, b'{"value": 1.0, "higher_is_better": [1]}', "at `higher_is_better`"),
    (OBJECTIVE, b'{"value": 1%s}' % (b"0" * 400), "401 digits"),
    (OBJECTIVE, bytes(range(256)), "codec can't decode"),
    (OBJECTIVE, json.dumps({"value": 1.0}).encode("utf-16"), "codec can't decode"),
    (OBJECTIVE, DEEP, "nested more than 100 levels"),
    (OBJECTIVE, os.mkdir, "Is a directory"),
    (OBJECTIVE, os.mkfifo, "a pipe or a device"),
    (CONFIG, None, "No such file"),
    (CONFIG, b"", "Expected `object`, got `null`"),
    (CONFIG, b"- 1", "Expected `object`, got `array`"),
    (CONFIG, b"monitor: [1]", "at `monitor`"),
    (CONFIG, b"monitor_mode: sideways", "at `monitor_mode`"),
    (CONFIG, b"a: {b", "expected"),
    (CONFIG, b"a: !!bool x", "is not that of a run"),
    (CONFIG, b"a: !!python/object/apply:os.abort []", "could not determine a constructor"),
    (CONFIG, b"[" * 10**5, "is not that of a run"),
    (CONFIG, b"\xff\xfe", "is not that of a run"),
    (CONFIG, b"a" * 2**21, "more than 1048576 bytes"),
    (CONFIG, os.mkdir, "Is a directory"),
    (OVERRIDES, None, "No such file"),
    (OVERRIDES, b"mapper=mlp", "Expected `array`, got `str`"),
    (OVERRIDES, b"- [1]", "Expected `str`, got `array` - at `$[0]`"),
    (OVERRIDES, b"\x00\x01", "is not that of a run"),
    (OVERRIDES, os.mkdir, "Is a directory"),
    (OVERRIDES, os.mkfifo, "a pipe or a device"),
]
WITHOUT_CURVES = [
    (METRICS, b"step,val/loss\n1,low\n", 'metrics.csv, line 2: ValueError("could not convert string'),
    (METRICS, b"val/loss\n1\n", "KeyError('step')"),
    (METRICS, b"val/loss,step\n1\n", "TypeError"),
    (METRICS, b"step,val/loss\n1,\xff\n", "UnicodeDecodeError"),
    (METRICS, b"step,val/loss\n1,%s\n" % (b"1" * 2**18), "field larger than field limit"),
    (METRICS, os.mkdir, "is not a file"),
    (METRICS, os.mkfifo, "is not a file"),
    (METRICS, b"", ""),
    (METRICS, b"step,val/loss\n1,nan\n1e400,2\n2,1e308\n3,2,3,4\n", ""),
]


@pytest.mark.timeout(60)
def test_each_damaged_job_is_named_and_the_others_are_compared(tmp_path, monkeypatch, capsys):
    write_job(tmp_path, 0, ["mapper=mlp"], 1.0, rows=["1,,2,"])
    write_job(tmp_path, 1, ["mapper=linear"], 2.0, rows=["1,,3,"])
    for number, (name, content, _) in enumerate([*LEFT_OUT, *WITHOUT_CURVES], 2):
        damage(write_job(tmp_path, number, ["mapper=mlp"], 1.0, rows=["1,,2,"]), name, content)
    (tmp_path / str(2 + len(LEFT_OUT) + len(WITHOUT_CURVES))).mkdir()
    lines = report(tmp_path, monkeypatch, capsys).splitlines()
    page = (tmp_path / "report.html").read_text()
    for number, (_, _, reason) in enumerate(LEFT_OUT, 2):
        (line,) = (line for line in lines if line.startswith(f"job {number} is left out: "))
        assert reason in line
        assert f"job {number} is left out: " in page
    for number, (_, _, reason) in enumerate(WITHOUT_CURVES, 2 + len(LEFT_OUT)):
        found = [line for line in lines if line.startswith(f"job {number} is done: It has no curves: ")]
        assert len(found) == bool(reason)
        assert reason in "".join(found)
    assert f"job {2 + len(LEFT_OUT) + len(WITHOUT_CURVES)} is left out: No such file or directory" in "\n".join(lines)
    assert [(each.label, each.mean) for each in compare(tmp_path).set_ups] == [("mapper=mlp", 1), ("mapper=linear", 2)]


def test_nothing_left_is_one_sentence(tmp_path, monkeypatch, capsys):
    run = write_job(tmp_path, 0, ["mapper=mlp"], 1.0)
    (run / OBJECTIVE).write_bytes(b"")
    error = report(tmp_path, monkeypatch, capsys, code=2)
    assert "holds no run that can be read; of 1 the first is 0: " in error
    assert "objective.json is not the value of a run (Expecting value" in error
    assert "holds no runs" in report(tmp_path / "0" / ".hydra", monkeypatch, capsys, code=2)


def test_failed_jobs_say_why(tmp_path, monkeypatch, capsys):
    write_job(tmp_path, 0, ["mapper=a"], 1.0)
    logs = {
        1: "a line\nerror: lm is 'gpt3'; accepted are gpt2\n  a note\n",
        2: "Traceback (most recent call last):\n  File\ntorch.OutOfMemoryError: no memory\n",
        3: "error: of a former start\n" + "step\n" * 30,
        4: "\x1b[31merror\n\ud800",
    }
    for number, log in logs.items():
        run = write_job(tmp_path, number, [f"mapper={number}"], None)
        (run / "job.log").write_text(log, errors="surrogatepass")
    sweep = compare(tmp_path)
    assert [job.state for job in sweep.jobs] == ["done", "failed", "failed", "unfinished", "unfinished"]
    assert sweep.problems == [
        "job 1 failed: lm is 'gpt3'; accepted are gpt2",
        "job 2 failed: torch.OutOfMemoryError: no memory",
    ]
    output = report(tmp_path, monkeypatch, capsys)
    assert "job 1 failed: lm is 'gpt3'; accepted are gpt2\n" in output
    assert "<b>(failed)</b>" in (tmp_path / "report.html").read_text()
    (tmp_path / "0" / OBJECTIVE).unlink()
    assert "no job has ended (job 1 failed: lm is 'gpt3'; accepted are gpt2); name" in report(
        tmp_path, monkeypatch, capsys, code=2
    )


def test_names_and_values_that_no_terminal_shows(tmp_path, monkeypatch, capsys):
    write_job(tmp_path, os.fsdecode(b"\xff"), ["a=1\x1b[2J"], 1.0)
    run = write_job(tmp_path, "1\u00b2", ["x"], float("nan"))
    (run / OVERRIDES).write_text(r'- "a=\ud800\n"')
    for number, value in enumerate((1e308, 1.5e308, float("inf")), 5):
        write_job(tmp_path, number, [f"a={value}"], value, rows=[f"1,{value},{value},1"])
    output = report(tmp_path, monkeypatch, capsys)
    for text in ("\\udcff", "1\\x1b[2J", r"\ud800\n"):
        assert text in output


def test_numbers_are_in_order_on_an_axis_of_numbers(tmp_path):
    for number, layers in enumerate((16, 2, 4, 2)):
        write_job(
            tmp_path, number, [f"mapper.layers={layers}", f"mapper.dropout={['null', 0.5, 0.1][number % 3]}"], 1.0
        )
    jobs = compare(tmp_path).jobs
    two, four, sixteen = places(by_option(jobs, "mapper.layers", "val/loss"), "2", "4", "16")
    assert (sixteen - four) / (four - two) == pytest.approx(6)
    first, second, third = places(by_option(jobs, "mapper.dropout", "val/loss"), "0.1", "0.5", "null")
    assert first < second < third  # as categories, because null is no number


def places(drawing, *labels):
    """Return the horizontal places of the labels of an axis."""
    found = {label: float(x) for x, label in re.findall(r'<text[^>]* x="([\d.]+)"[^>]*>([^<]*)</text>', str(drawing))}
    return [found[label] for label in labels]


def test_the_class_of_the_headings_has_no_style_of_another_part(tmp_path):
    """`.word` of the report's tags is inline-block, which shifts the headings of a table by a column."""
    write_job(tmp_path, 0, ["a=1"], 1.0)
    write_job(tmp_path, 1, ["a=2"], 1.0)
    write_report(compare(tmp_path), tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text()
    (name,) = set(re.findall(r'<th scope="col" class="([^"]*)"', page))
    assert re.findall(rf"[^{{}}\n]*\.{name}\b[^{{]*{{[^}}]*}}", page) == [
        f".set-ups thead .{name} {{ text-align: left; }}"
    ]
