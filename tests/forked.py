"""Server that runs commands in forks of a process that has imported all modules.

A command takes seconds to import torch, Lightning and Hydra, and a tenth of a second for its work in a test. Requests
are lines of JSON. The Python processes that a command starts, such as ranks and the jobs of a sweep, are forks too,
unless REAL_CHILDREN is in its environment.
"""

import atexit
import gc
import importlib
import inspect
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

from hydra.core.global_hydra import GlobalHydra

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
    """Set this process up as the one of the request: group, folder, environment and output."""
    os.setpgid(0, 0)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    for number, path in enumerate(("/dev/null", f"{request['folder']}/out", f"{request['folder']}/err")):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    if "REAL_CHILDREN" not in os.environ:
        subprocess.Popen = ForkingPopen


def run(arguments):
    """Run a script or `-m module` as Python does."""
    # timm has imported wandb, whose folder for media each command that uses it removes at its end: here is a new one.
    sys.modules["wandb.sdk.data_types._private"].MEDIA_TMP.__init__("wandb-media")
    sys.argv = list(arguments)
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    if sys.argv[0] == "-m":
        sys.argv, sys.path[0] = sys.argv[1:], os.getcwd()
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        script = Path(sys.argv[0]).absolute()
        sys.path[0] = str(script.parent)
        runpy.run_path(str(script), run_name="__main__")


def run_and_end(arguments):
    """Run a command and exit with its code."""
    try:
        run(arguments)
        end(0)
    except SystemExit as exit:
        if isinstance(exit.code, str):
            print(exit.code, file=sys.stderr)
        end(exit.code if isinstance(exit.code, int) else exit.code is not None)
    except BaseException:
        traceback.print_exc()
        end(1)


def end(code):
    """Exit as Python does, but without the deletion of a gigabyte of modules, which takes seconds."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class ForkingPopen(subprocess.Popen):
    """Popen that forks this process where it would start Python with a script or a module."""

    def _execute_child(self, *values):
        given = inspect.signature(super()._execute_child).bind(*values).arguments
        arguments = arguments_of_python(given["args"])
        if arguments is None or given["pass_fds"] or given["preexec_fn"]:
            super()._execute_child(*values)
            return
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            become_child(given)
            run_and_end(arguments)
        self._child_created = True
        self._close_pipe_fds(*(given[name] for name in PIPES))


PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")


def arguments_of_python(args):
    """Return the script or `-m module` with its arguments; None for another program, or for code."""
    if not isinstance(args, list | tuple) or args[0] != sys.executable:
        return None
    rest = [str(each) for each in args[1:]]
    while rest and rest[0] in ("-u", "-I", "-S"):
        rest.pop(0)
    return rest if rest and (rest[0] == "-m" or rest[0].endswith(".py")) else None


def become_child(given):
    """Set a fork up as Popen does, and undo what the command that forked has done to its process."""
    if given["start_new_session"]:
        os.setsid()
    elif given["process_group"] >= 0:
        os.setpgid(0, given["process_group"])
    for number, name in enumerate(("p2cread", "c2pwrite", "errwrite")):
        if given[name] >= 0:
            os.dup2(given[name], number)
    signal.set_wakeup_fd(-1)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    for number in signal.valid_signals():  # exec keeps only what is ignored
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.freeze()  # what the other process has opened is never closed here, where its numbers mean other files
    if given["cwd"]:
        os.chdir(given["cwd"])
    if given["env"] is not None:
        env = {os.fsdecode(name): os.fsdecode(value) for name, value in given["env"].items()}
        os.environ.clear()
        os.environ.update(env)
    GlobalHydra.instance().clear()


if __name__ == "__main__":
    request = serve()
    become(request)
    run_and_end(request["arguments"])
