"""Optuna sweeps as a user starts, kills and resumes them; the search space and the study alone."""

import json
import os
import signal

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from hydra_plugins.prefixvlm._space import space
from hydra_plugins.prefixvlm._study import Study
from tests.hydra_plugins.conftest import alive

OPTUNA = "hydra/sweeper=optuna"
STORAGES = ["study.db", "study.log"]


def spaced(*overrides):
    return space(OverridesParser.create().parse_overrides(list(overrides)))


@pytest.mark.parametrize(
    ("override", "distribution"),
    [
        ("a=choice(b,'c d',2)", CategoricalDistribution(["b", r"c\ d", "2"])),
        ("a=x,y", CategoricalDistribution(["x", "y"])),
        ("a=choice([1,2],[3])", CategoricalDistribution(["[1,2]", "[3]"])),
        ("a=range(1,8,3)", IntDistribution(1, 7, step=3)),
        ("a=range(3,0,-1)", IntDistribution(1, 3)),
        ("a=tag(log,range(1,65))", IntDistribution(1, 64, log=True)),
        ("a=range(0.5,2,0.5)", FloatDistribution(0.5, 1.5, step=0.5)),
        ("a=interval(1,2)", FloatDistribution(1.0, 2.0)),
        ("a=tag(log,interval(1e-5,1e-2))", FloatDistribution(1e-5, 1e-2, log=True)),
        ("a=int(interval(1,8))", IntDistribution(1, 8)),
    ],
)
def test_each_form_of_a_search_space(override, distribution):
    found = spaced("seed=3", override, "+b.c='x=1'")
    assert found.free == {"a": distribution}
    assert found.fixed == ["seed=3", "+b.c='x=1'"]


def test_the_later_override_of_a_key_counts_and_one_must_be_free():
    found = spaced("a=interval(0,1)", "+b=1,2", "a=3")
    assert found.fixed == ["a=3"]
    assert found.overrides({"+b": "2"}) == ["a=3", "+b=2"]
    assert spaced("a=interval(0,1)").overrides({"a": 1e-05}) == ["a=1e-05"]
    with pytest.raises(ValueError, match="nothing to search"):
        spaced("a=1", "~b")
    with pytest.raises(ValueError, match="is empty"):
        spaced("a=range(3,3)")


SPACE = ("x=interval(-5,5)", "y=tag(log,interval(1e-3,1))", "z=a,b")


def searched(path, seed=0, trials=14, stop_at=None, sampler="tpe"):
    """Return the parameters of each job, or leave job stop_at running and return None."""
    study = Study(str(path), "s", ["minimize"], sampler, seed)
    study.give_up_running()
    while study.num_started() < trials:
        job, _, params = study.ask(spaced(*SPACE))
        if job == stop_at:
            return None
        study.tell(job, params["x"] ** 2 + params["y"], False, None)
    return {trial.user_attrs["job"]: trial.params for trial in study.trials()}


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_one_seed_proposes_the_same_and_another_does_not(tmp_path, sampler):
    first = searched(tmp_path / "1.log", sampler=sampler)
    assert searched(tmp_path / "2.log", sampler=sampler) == first
    assert len({params["x"] for params in first.values()}) == 14
    assert searched(tmp_path / "3.log", seed=1, sampler=sampler) != first


@pytest.mark.parametrize("storage", STORAGES)
def test_an_interrupted_study_proposes_the_same_trials(tmp_path, storage):
    straight = searched(tmp_path / storage)
    for stop_at in (12, 12):
        searched(tmp_path / f"x{storage}", stop_at=stop_at)
    assert searched(tmp_path / f"x{storage}") == straight
    study = Study(str(tmp_path / f"x{storage}"), "s", ["minimize"], "tpe", 0)
    states = [trial.state for trial in study.optuna_study.trials]
    assert states == [TrialState.COMPLETE] * 12 + [TrialState.FAIL] * 2 + [TrialState.COMPLETE] * 2
    assert study.counts() == {"complete": 14}


@pytest.mark.parametrize("storage", STORAGES)
def test_a_killed_sweep_resumes_its_study(sweep, tmp_path, storage):
    place = f"hydra.sweeper.storage={tmp_path}/{storage}"
    options = [OPTUNA, place, "x=range(0,20)", "hydra.sweeper.n_trials=4", "seconds=60", "slow=2"]
    first = sweep(*options)
    first.wait_for(lambda: first.starts(2))
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    again = sweep(*options)
    out = again.end()
    assert "1 trials were interrupted and are run again" in out
    assert "Trials: 4 complete" in out
    assert "Warning" not in out
    assert [len(again.starts(n)) for n in range(5)] == [1, 1, 2, 1, 0]
    assert not alive(again.starts(2)[0][2][0])
    assert "Trials: 4 complete" in sweep(*options).end()


def test_the_best_is_an_experiment_that_composes(app, sweep):
    search = sweep(
        OPTUNA, "x=range(2,5)", "+n.m=tag(log,interval(1e-3,1))", "+hydra.sweeper.params.opt='choice(a,b)'",
        "text='a: b, c'",
        "hydra.sweeper.n_trials=6", "hydra.launcher.n_jobs=2",
    )  # fmt: skip
    out = search.end()
    results = json.loads((search.dir / "results.json").read_text())
    assert results["objectives"] == {"value": "minimize"}
    assert results["trials"] == {"complete": 6}
    best = results["best"][0]
    values = [json.loads((search.job(n) / "objective.json").read_text())["value"] for n in range(6)]
    assert best["values"] == [min(values)]
    assert f"Best: value {min(values)} with" in out
    (app.parent / "conf" / "experiment").mkdir()
    (search.dir / "best.yaml").rename(app.parent / "conf" / "experiment" / "found.yaml")
    with initialize_config_dir(str(app.parent / "conf"), version_base="1.3"):
        cfg = compose("app", ["+experiment=found"], return_hydra_config=True)
    assert cfg.x == best["params"]["x"]
    assert cfg.n.m == best["params"]["+n.m"]
    assert cfg.opt.y == {"a": 0, "b": 10}[best["params"]["opt"]]
    assert cfg.hydra.runtime.choices.opt == best["params"]["opt"]
    assert cfg.text == "a: b, c"


def test_two_objectives_leave_a_front(sweep):
    search = sweep(
        OPTUNA, "x=range(-2,6)", "two=true", "hydra.sweeper.n_trials=6", "hydra.sweeper.direction=[minimize,minimize]"
    )
    assert "Trials: 6 complete" in search.end()
    front = json.loads((search.dir / "results.json").read_text())["best"]
    values = [json.loads((search.job(n) / "objective.json").read_text())["value"] for n in range(6)]
    assert front
    for trial in front:
        assert trial["values"] in values
        assert not any(
            a <= trial["values"][0] and b <= trial["values"][1] and [a, b] != trial["values"] for a, b in values
        )
    assert "the whole Pareto front" in (search.dir / "best.yaml").read_text()


def test_failed_and_pruned_trials_count_and_do_not_stop_the_search(sweep):
    search = sweep(
        OPTUNA,
        "x=1,13,2",
        "prune=1",
        "hydra.sweeper.sampler=random",
        "hydra.sweeper.n_trials=8",
        "hydra.launcher.n_jobs=2",
    )
    out = search.end(code=2)
    counts = json.loads((search.dir / "results.json").read_text())["trials"]
    assert set(counts) == {"complete", "pruned", "fail"}
    assert sum(counts.values()) == 8
    assert "x=1: pruned, value 4" in out
    assert f"{counts['fail']} of 8 jobs failed: " in out
    assert "x: 2" in (search.dir / "best.yaml").read_text()


def test_submitit_runs_batches_of_trials(sweep):
    pytest.importorskip("submitit", reason="pip install submitit hydra-submitit-launcher")
    options = ["hydra/launcher=submitit_local", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2"]
    search = sweep(OPTUNA, *options, "x=range(0,9)")
    assert "Trials: 3 complete" in search.end()
    assert all(search.starts(n) for n in range(3))


def test_jobs_get_a_pruner_of_the_study(sweep):
    search = sweep(OPTUNA, "x=1,2", "+callbacks={}", "hydra.sweeper.pruner=median", "hydra.sweeper.n_trials=2")
    search.end()
    text = (search.job(1) / ".hydra" / "config.yaml").read_text()
    assert "_target_: prefixvlm.callbacks.pruner.Pruner" in text
    assert "trial: 1" in text
    assert "study.db" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["x=1"], "nothing to search"),
        (["x=1,2", "hydra.sweeper.sampler=grid"], "accepted are tpe, random"),
        (["x=1,2", "hydra.sweeper.direction=up"], "accepted are minimize, maximize"),
        (["x=1,2", "hydra.sweeper.pruner=medium"], "accepted are none, median, hyperband"),
        (["x=1,2", "hydra.sweeper.storage=study"], "accepted are FILE.db, FILE.log"),
        (["x=1,2", "hydra.sweeper.pruner=median", "hydra.sweeper.direction=[minimize,minimize]"], "one objective only"),
        (["opt=a,c"], "there is no opt 'c'"),
    ],
)
def test_bad_input_is_one_sentence(sweep, options, message):
    out = sweep(OPTUNA, *options).end(code=2)
    assert message in out
    assert out.count("error:") == 1
    assert "Traceback" not in out
