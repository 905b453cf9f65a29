"""Server that runs commands in forks of a process that has imported all modules.

A command takes seconds to import torch, Lightning and Hydra, and a tenth of a second for its work in a test. Requests
are lines of JSON.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Not wandb: the first child that exits would remove the folder for media that wandb makes when it is imported.
MODULES = (
    "train", "eval", "prefixvlm.command_line.subcommands", "prefixvlm.encoder.openclip", "prefixvlm.encoder.timm",
)  # fmt: skip


class Forked:
    """run(arguments) returns what subprocess.run([sys.executable, *arguments]) does, for a script or `-m module`."""

    def __init__(self) -> None:
        self.lock, self.process = threading.Lock(), None

    def run(self, arguments, cwd, timeout, env=()):
        with self.lock, tempfile.TemporaryDirectory() as folder:
            if self.process is None:
                command = [sys.executable, "-m", "tests.forked"]
                self.process = subprocess.Popen(
                    command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
                atexit.register(self.end)
            outputs = [f"{folder}/out", f"{folder}/err"]
            request = {"arguments": arguments, "cwd": str(cwd), "outputs": outputs, "env": {**os.environ, **dict(env)}}
            print(json.dumps(request), file=self.process.stdin, flush=True)
            late = threading.Timer(timeout, os.killpg, (int(self.process.stdout.readline()), 9))
            late.start()
            code = int(self.process.stdout.readline())
            late.cancel()
            return subprocess.CompletedProcess(arguments, code, *[Path(path).read_text() for path in outputs])

    def end(self):
        self.process.communicate()


FORKED = Forked()


def serve():
    """Serve requests; returns in each child, with its command."""
    for name in MODULES:
        importlib.import_module(name)
    gc.freeze()  # a collection in a child would copy every page
    for line in sys.stdin:
        if not (child := os.fork()):
            return json.loads(line)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit()


def become(request):
    """Set this process up as the one of the request: group, folder, environment, output and arguments."""
    os.setpgid(0, 0)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    for number, path in zip((0, 1, 2), ("/dev/null", *request["outputs"]), strict=True):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    sys.argv = request["arguments"]
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    if sys.argv[0] == "-m":
        sys.argv, sys.path[0] = sys.argv[1:], request["cwd"]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        script = Path(sys.argv[0]).absolute()
        sys.path[0] = str(script.parent)
        runpy.run_path(str(script), run_name="__main__")


def end(code):
    """Exit as Python does, but without the deletion of a gigabyte of modules, which takes seconds."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    try:
        become(serve())
        end(0)
    except SystemExit as exit:
        if isinstance(exit.code, str):
            print(exit.code, file=sys.stderr)
        end(exit.code if isinstance(exit.code, int) else exit.code is not None)
    except BaseException:
        traceback.print_exc()
        end(1)
