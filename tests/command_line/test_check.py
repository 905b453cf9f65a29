"""Wrong words of a command line are answered before torch is imported and before anything is written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from prefixvlm.config import compose_run
from prefixvlm.training import objective

ROOT = Path(__file__).parents[2]
# By the words that follow train.py or eval.py: what the sentence says.
TRAIN = {
    "sede=3": "there is no key sede; did you mean seed?",
    "mapper=lineer": "there is no mapper 'lineer'; did you mean mapper=linear?",
    "optim.weight_decy=0.1": "there is no key optim.weight_decy; did you mean optim.weight_decay?",
    "+mapper.dropuot=0.1": "mapper.dropuot is not an option of prefixvlm.mapper.mlp.MLPMapper; did you mean mapper.dro",
    "mapper.prefix_length=ten": "mapper.prefix_length is 'ten'; it must be",
    "seed=abc": "seed=abc does not fit",
    "seed=-1": "seed is -1; it must be an int from 0",
    "data=shards data.shards=/nowhere": "data.shards=/nowhere does not exist",
    "init_from=/nowhere.ckpt": "there is no checkpoint file /nowhere.ckpt; set init_from",
    "task=[vqa,nope]": "there is no task 'nope'; --help lists the choices",
    "resume=sometimes": "resume is 'sometimes'; it must be one of auto, must, never",
    "trainer.max_steps=-7": "trainer.max_steps is -7; it must be an int of -1 or more",
    "trainer.precision=foo": "trainer.precision is 'foo'; it must be one of 32-true, bf16-mixed",
    "trainer.devices=100000": "trainer.devices is 100000, but this machine has",
    "data.batch_size=-3": "data.batch_size is -3; it must be an int of 1 or more",
    "data.num_workers=-1": "data.num_workers is -1; it must be an int from 0 to 1024",
    "+mapper=linear": "mapper has a choice already; write mapper=NAME, without a +, to make another",
    "~nothing": "there is no key nothing; accepted are callbacks",
    "optim.lr=${nothing}": "optim.lr refers to ${nothing}, and there is no key nothing",
    "mapper.x.y=3": "there is no key mapper.x.y; accepted are mapper._target_, mapper.activation",
    "mapper._target_=os.system": "mapper._target_ is 'os.system'; accepted are the subclasses of",
    "mapper._target_=prefixvlm.mapper.mlp.MLPMaper": "mapper._target_ is 'prefixvlm.mapper.mlp.MLPMaper'; accepted are",
    "mapper._target_=prefixvlm.mapper.mlp.torch": "mapper._target_ is 'prefixvlm.mapper.mlp.torch'; accepted are",
    "data.shards=http://a/b encoder.model_name=local-dir:/nowhere": "encoder.model_name is local-dir:/nowhere, but",
    "data.shards=http://a/b encoder=clip_vit_b32 lm=gpt2 lm.name=/no/where": "there is no folder /no/where; set lm.",
    "plugins=[nothing.at_all]": "plugins names 'nothing.at_all', which cannot be imported (No module named 'nothing')",
    "trainer.precision=bf16-true": "trainer.precision is bf16-true, in which small updates of the trained weights are",
    "--optim.lr=-0.01": "optim.lr is -0.01; it must be a float of 0 or more",
    "--multirn": "there is no flag --multirn; did you mean --multirun?",
    "--config-dir /nowhere": "there is no folder /nowhere; set --config-dir",
    "--cfg foo": "argument --cfg/-c: invalid choice: 'foo'",
    "-m data.batch_size=8,0 seed=1,2": "data.batch_size is 0; it must be an int of 1 or more",
    "-m seed=range(0,1000000000)": "seed=range(0,1000000000) is a range of no values or of more than 10000",
    "-m seed=range(3,0)": "seed=range(3,0) is a range of no values",
    "-m seed=range(0,3,0)": "seed=range(0,3,0) is a range of no values",
    "-m data.batch_size=range(0,5000)": "data.batch_size is 0; it must be an int of 1 or more",
    "seed=1 -m mapper=mlp,lineer": "there is no mapper 'lineer'; did you mean mapper=linear?",
}
EVAL = {
    "ckpt=/nowhere.ckpt": "there is no checkpoint file /nowhere.ckpt; set ckpt to a .ckpt file of a run",
    "": "ckpt has no value; set it as ckpt=VALUE",
    "benchmark=cocoo": "there is no benchmark 'cocoo'; did you mean benchmark=coco?",
    "trials=0": "trials is 0; it must be an int of 1 or more",
    "devices=100000": "devices is 100000, but this machine has",
    "few_shot.shots=-1": "few_shot.shots is -1; it must be an int of 0 or more",
}
COMMANDS = [*(("train", *each) for each in TRAIN.items()), *(("eval", *each) for each in EVAL.items())]

ANSWER_ALL = """
import contextlib, io, json, sys
from pathlib import Path
from prefixvlm import config
from prefixvlm.command_line.check import check_command
from prefixvlm.errors import one_sentence

config.register()
conf, results = Path(sys.argv[1]), []
for program, words in json.load(sys.stdin):
    sys.argv = [f"{program}.py", *words.split()]
    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            one_sentence(check_command, conf)(conf)
            code = None
        except SystemExit as end:
            code = end.code
    results.append([code, err.getvalue(), out.getvalue(), sys.argv[1:]])
print(json.dumps([results, sorted({"torch", "lightning", "transformers"} & sys.modules.keys())]))
"""
SHOWN = [("train", "--help"), ("eval", "--help"), ("train", "--cfg job")]
RIGHT = [
    ("train", "--optim.lr=0.01 seed=3 --config-name=train --mapper=mlp"),
    ("train", "seed=1,2 -m optim.lr=0.1,0.2"),
]


def answers_in(folder, commands):
    """Return the exit code, both outputs and the new sys.argv of each program and its words, all from one process."""
    done = subprocess.run(
        [sys.executable, "-c", ANSWER_ALL, str(ROOT / "conf")], input=json.dumps(commands), cwd=folder,
        capture_output=True, text=True, timeout=120, env={**os.environ, "HYDRA_FULL_ERROR": "0"},
    )  # fmt: skip
    assert not done.returncode, done.stderr
    results, heavy = json.loads(done.stdout)
    assert heavy == []
    return results


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Return the answers by program and words."""
    folder = tmp_path_factory.mktemp("command_check")
    commands = [*((program, words) for program, words, _ in COMMANDS), *SHOWN, *RIGHT]
    results = answers_in(folder, commands)
    assert [path.name for path in folder.iterdir()] == [], "nothing is left behind"
    return dict(zip(commands, results, strict=True))


@pytest.mark.parametrize(("program", "words", "expected"), COMMANDS)
def test_a_wrong_word_is_one_sentence_and_exit_code_2(answers, program, words, expected):
    code, err, out, _ = answers[program, words]
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {expected}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", SHOWN)
def test_what_hydra_shows_is_shown_without_torch(answers, command):
    code, err, out, _ = answers[command]
    assert (code or 0, err) == (0, "")
    assert "batch_size" in out
    assert ("mapper: linear, llava, mlp," in out) == (command[1] == "--help")


def test_an_override_with_hyphens_is_one_without(answers):
    """As wandb's agents write them; the shards are missing, which is the only thing that is wrong."""
    _, err, _, argv = answers[RIGHT[0]]
    assert "data.shards=data/easy-vqa does not exist" in err
    assert argv == ["optim.lr=0.01", "seed=3", "mapper=mlp", "--config-name=train"]


def test_overrides_may_stand_on_both_sides_of_a_flag(answers):
    _, err, _, argv = answers[RIGHT[1]]
    assert "data.shards=data/easy-vqa does not exist" in err
    assert argv == ["seed=1,2", "optim.lr=0.1,0.2", "-m"]


def test_a_finished_run_says_so_without_torch(tmp_path):
    """Its shards may be gone. A new option, or none of its checkpoints, and the command is checked as any other."""
    folder = tmp_path / "runs" / "resampler"  # named by a value that Hydra knows
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    cfg = compose_run(["mapper=resampler", "seed=3", f"run_dir={folder}"])
    objective.write(str(folder), OmegaConf.to_container(cfg), value=1.5)
    command = "hydra.run.dir=runs/${hydra:runtime.choices.mapper} seed=3 mapper=resampler"
    same, other, again, sweep = answers_in(
        tmp_path, [("train", command + end) for end in ("", " seed=4", " resume=never", " -m")]
    )
    assert same[:3] == [None, "", f"The run in {folder} is finished. To train more, set an option, or hydra.run.dir.\n"]
    for code, err, out, _ in (other, again, sweep):
        assert (code, out) == (2, "")
        assert "data.shards=data/easy-vqa does not exist" in err
