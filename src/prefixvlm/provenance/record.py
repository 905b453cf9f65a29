"""Nothing goes in; which code, versions and command a run or an evaluation is of comes out."""

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
    """Plain values without a trace of the machine or a secret.

    git: the commit of the code and whether it was changed since; None outside a repository. command: as it was typed,
    but for the folder of the script.
    """
    return {"git": _git(Path(__file__)), "versions": versions(), "command": command()}


def versions() -> dict[str, str]:
    """Of Python and of the packages that make results what they are, where they are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def command() -> str:
    """The command line, to be typed again."""
    return shlex.join([Path(sys.argv[0]).name, *redact(sys.argv[1:])])


def _git(file: Path) -> dict[str, Any] | None:
    """None where the file is none of the repository that its folder happens to be in, as in a virtual environment."""
    if _ask(file, "ls-files", "--error-unmatch", file.name) is None:
        return None
    commit, changes = _ask(file, "rev-parse", "HEAD"), _ask(file, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None or changes is None else {"commit": commit, "dirty": bool(changes)}


def _ask(file: Path, *arguments: str) -> str | None:
    """What git says; None if it fails or there is none."""
    git = ["git", "-C", str(file.parent), *arguments]
    env = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(git, capture_output=True, text=True, timeout=10, env=env, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
