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
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODULES = (
    "train", "eval", "prefixvlm.command_line.subcommands", "prefixvlm.encoder.openclip", "prefixvlm.encoder.timm",
)  # fmt: skip


class Forked:
    """start(arguments) does what subprocess.Popen([sys.executable, *arguments]) does, for a script or `-m module`."""

    def __init__(self) -> None:
        self.lock, self.process = threading.Lock(), None

    def start(self, arguments, cwd=ROOT, env=()):
        with self.lock:
            if self.process is None:
                command = [sys.executable, "-m", "tests.forked"]
                self.process = subprocess.Popen(
                    command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
                atexit.register(self.process.communicate)
            folder = tempfile.mkdtemp(prefix="forked-")
            request = {"arguments": [str(each) for each in arguments], "cwd": str(cwd), "folder": folder}
            print(json.dumps({**request, "env": {**os.environ, **dict(env)}}), file=self.process.stdin, flush=True)
            return Child(request["arguments"], int(self.process.stdout.readline()), Path(folder))


class Child:
    """A command that runs, with the methods of subprocess.Popen."""

    def __init__(self, arguments, pid, folder) -> None:
        self.arguments, self.pid, self.folder, self.returncode = arguments, pid, folder, None

    def poll(self):
        if self.returncode is None and (self.folder / "code").exists():
            self.returncode = int((self.folder / "code").read_text())
        return self.returncode

    def communicate(self, timeout=120):
        """Return the two outputs. A command that takes longer is killed, with all that it has started."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
                deadline = float("inf")
            time.sleep(0.005)
        outputs = [(self.folder / name).read_text() for name in ("out", "err")]
        shutil.rmtree(self.folder)
        return outputs

    def send_signal(self, number):
        os.kill(self.pid, number)


FORKED = Forked()


def serve():
    """Serve requests; returns in the process of each command, with its request."""
    for name in MODULES:
        importlib.import_module(name)
    gc.freeze()  # a collection in a child would copy every page
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes that wait for the commands
    for line in sys.stdin:
        if os.fork():
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        request, child = json.loads(line), os.fork()
        if not child:
            return request
        print(child, flush=True)
        code, path = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), Path(request["folder"], "code")
        path.with_suffix(".tmp").write_text(str(code))
        path.with_suffix(".tmp").rename(path)
        os._exit(0)
    sys.exit()


def become(request):
    """Set this process up as the one of the request: group, folder, environment, output and arguments."""
    os.setpgid(0, 0)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    # timm has imported wandb, whose folder for media each command that uses it removes at its end: here is a new one.
    sys.modules["wandb.sdk.data_types._private"].MEDIA_TMP.__init__("wandb-media")
    for number, path in enumerate(("/dev/null", f"{request['folder']}/out", f"{request['folder']}/err")):
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
