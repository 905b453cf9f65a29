"""Git commit, package versions and command line of this process."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from prefixvlm.provenance.redaction import redact

PACKAGES = ("prefixvlm", "torch", "lightning", "transformers", "open_clip_torch", "webdataset", "hydra-core")


def provenance() -> dict[str, Any]:
    """Return plain values without secrets and without names or paths of the machine.

    git: the commit of the code and whether tracked files differ from it ("dirty"); None outside a repository.
    versions: of Python and the packages. command: the command line without the folder of the script.
    """
    return {"git": _git(Path(__file__)), "versions": versions(), "command": command()}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that results depend on."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def command() -> str:
    """Return the command line, quoted for a shell."""
    return shlex.join([Path(sys.argv[0]).name, *redact(sys.argv[1:])])


def _git(file: Path) -> dict[str, Any] | None:
    # A virtual environment may lie inside another project's repository, which does not track its files.
    if _run_git(file, "ls-files", "--error-unmatch", file.name) is None:
        return None
    commit = _run_git(file, "rev-parse", "HEAD")
    changes = _run_git(file, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None or changes is None else {"commit": commit, "dirty": bool(changes)}


def _run_git(file: Path, *arguments: str) -> str | None:
    """Return the output of a git command in the folder of a file; None if it fails or git is not installed."""
    git = ["git", "-C", str(file.parent), *arguments]
    env = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}  # without locks it disturbs no other git command
    try:
        process = subprocess.run(git, capture_output=True, text=True, timeout=10, env=env, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return None
    return process.stdout.strip() if process.returncode == 0 else None
