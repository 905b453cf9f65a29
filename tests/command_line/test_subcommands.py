"""Wrong arguments of the `prefixvlm` commands are answered before torch is imported."""

import json
import subprocess
import sys

import pytest

COMMANDS = {
    "describe sede=3": "there is no key sede",
    "describe mapper=lineer": "there is no mapper 'lineer'; did you mean mapper=linear?",
    "describe data.batch_size=-3": "data.batch_size is -3; it must be an int of 1 or more",
    "describe +mapper.dropuot=0.1": "mapper.dropuot is not an option of prefixvlm.mapper.mlp.MLPMapper",
    "predict nowhere.png --ckpt x.ckpt": "there is no image nowhere.png",
    "predict file --ckpt x.ckpt --resume": "--resume goes on with a file; give it as --results",
    "predict file --ckpt nowhere.ckpt": "there is no checkpoint file nowhere.ckpt; set --ckpt",
    "serve --ckpt nowhere.ckpt": "there is no checkpoint file nowhere.ckpt; set --ckpt",
    "serve --ckpt file --port 99999": "--port is 99999; set it to 0 ... 65535",
    "serve --ckpt file --host no.such.host.invalid": "cannot listen at --host no.such.host.invalid --port 8000",
    "serve --ckpt file --max-batch 0": "max_batch is 0; set --max-batch to 1 or more",
    "serve --ckpt file --timeout-s nan": "timeout_s is nan; set --timeout-s to 0.001 or more",
    "merge --ckpt nowhere.ckpt --out new": "No such file or directory: nowhere.ckpt",
    "merge --ckpt file --out old": "old exists; set --out to a new folder",
    "import-clipcap nowhere.pt --out new": "No such file or directory: nowhere.pt",
    "import-clipcap file --out old": "old exists; set --out to a new folder",
    "import-clipcap file --out new --encoder clip_vit": "there is no encoder 'clip_vit'",
    "shards features --shards old --encoder clip_tiny --out new": "--shards is old, which is not a folder of",
    "shards features --shards old --encoder clip_tin --out new": "there is no encoder 'clip_tin'",
    "shards features --shards old --encoder clip_tiny layr=3 --out new": "encoder.layr is not an option of",
    "shards features --shards old --encoder clip_tiny --out a --batch-size 0": "batch_size is 0; set --batch-size to 1",
}
ANSWER_ALL = """
import contextlib, io, json, sys
from prefixvlm.cli import main

results = []
for words in json.load(sys.stdin):
    sys.argv = ["prefixvlm", *words.split()]
    with contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main()
            code = None
        except SystemExit as end:
            code = end.code
    results.append([code, err.getvalue(), "torch" in sys.modules])
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    (folder / "old").mkdir()
    (folder / "file").touch()
    done = subprocess.run(
        [sys.executable, "-c", ANSWER_ALL], input=json.dumps(list(COMMANDS)), cwd=folder, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    return dict(zip(COMMANDS, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("words", COMMANDS)
def test_a_wrong_argument_is_one_sentence_and_exit_code_2(answers, words):
    code, err, imported_torch = answers[words]
    assert (code, imported_torch) == (2, False), err
    assert err.startswith(f"error: {COMMANDS[words]}")
    assert err.count("\n") == 1
