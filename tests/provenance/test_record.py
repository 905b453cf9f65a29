"""Commit, versions and command line, also without git or a repository."""

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
import torch

from prefixvlm.provenance import record as module
from prefixvlm.provenance.record import command, provenance, versions


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Return a repository with one committed file."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    (tmp_path / "code.py").write_text("1")
    for arguments in ("init -q", "add .", "-c user.name=a -c user.email=b -c commit.gpgsign=false commit -qm c"):
        subprocess.run(["git", "-C", str(tmp_path), *arguments.split()], check=True)
    return tmp_path


def test_commit_and_changes(repository):
    head = subprocess.run(["git", "-C", str(repository), "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    assert module._git(repository / "code.py") == {"commit": head.strip(), "dirty": False}
    (repository / "new.py").write_text("not of the code")
    assert module._git(repository / "new.py") is None
    assert not module._git(repository / "code.py")["dirty"]
    (repository / "code.py").write_text("2")
    assert module._git(repository / "code.py")["dirty"]


def test_without_a_repository_or_git_there_is_no_commit(tmp_path, repository, monkeypatch):
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    shutil.copy(repository / "code.py", outside)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(outside.parent))
    assert module._git(outside / "code.py") is None
    monkeypatch.setenv("PATH", str(outside))
    assert module._git(repository / "code.py") is None
    assert provenance()["git"] is None


def test_versions_are_of_what_is_installed(monkeypatch):
    assert versions()["torch"] == torch.__version__.split("+")[0]
    assert {"python", "prefixvlm", "lightning", "transformers", "open_clip_torch", "hydra-core"} <= versions().keys()
    monkeypatch.setattr(module, "PACKAGES", ("torch", "no-such-package"))
    assert set(versions()) == {"python", "torch"}


def test_the_command_is_as_typed_without_its_folder_and_its_secrets(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/home/me/train.py", "task.vqa.prompt='a b'", "data.shards=https://u:pw@h/x"])
    assert command() == """train.py 'task.vqa.prompt='"'"'a b'"'"'' 'data.shards=https://***@h/x'"""
    text = json.dumps(provenance())
    assert "pw@" not in text
    assert "/home/" not in text
    assert os.getcwd() not in text
    assert socket.gethostname() not in text or len(socket.gethostname()) < 4
