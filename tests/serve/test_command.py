"""`prefixvlm serve`: its arguments, and a process that is stopped."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from prefixvlm.command_line.subcommands import run_command
from tests.serve.serving import data_url


def refusal(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["prefixvlm", "serve", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        run_command()
    assert end.value.code == 2
    return capsys.readouterr().err


def test_a_port_in_use_is_one_sentence_before_the_model_is_loaded(folder, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal(monkeypatch, capsys, "--ckpt", folder / "x.ckpt", "--port", port)
    assert said == (f"error: cannot listen at --host 127.0.0.1 --port {port} (Address already in use); set others\n")


@pytest.mark.parametrize("key", ["", " x", "schl\u00fcssel"])
def test_a_key_that_no_client_could_send_is_refused(folder, monkeypatch, capsys, key):
    monkeypatch.setenv("PREFIXVLM_API_KEY", key)
    said = refusal(monkeypatch, capsys, "--ckpt", folder / "x.ckpt")
    assert said.startswith("error: PREFIXVLM_API_KEY is empty, or has letters that are not ASCII")


@pytest.mark.slow
def test_sigterm_lets_what_was_asked_be_answered_and_the_process_ends_with_0(folder, paths, model):
    command = [sys.executable, "-m", "prefixvlm.cli", "serve", "--ckpt", str(folder / "x.ckpt"), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--max-wait-ms", "2000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        ready = process.stdout.readline()
        (url,) = re.findall(r"^prefixvlm is ready at (http://127\.0\.0\.1:\d+) ", ready)
        asked = [{"image": data_url(path), "stream": stream} for path in paths[:2] for stream in (False, True)]
        # A stream whose head has come has been taken, and so has a request that is counted in the queue.
        with (
            ThreadPoolExecutor(2) as pool,
            httpx.stream("POST", f"{url}/v1/caption", json=asked[1], timeout=60) as stream,
        ):
            answers = [pool.submit(httpx.post, f"{url}/v1/caption", json=each, timeout=60) for each in asked[::2]]
            while httpx.get(f"{url}/health").json()["queued"] < 2:
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{url}/health")
            found = [answer.result() for answer in answers]
            assert '"done": true' in stream.read().decode()
        assert [answer.status_code for answer in (*found, stream)] == [200] * 3
        assert [answer.json()["text"] for answer in found] == model.caption(paths[:2])
        assert process.wait(20) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.communicate()
